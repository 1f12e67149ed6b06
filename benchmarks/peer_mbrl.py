"""mbrl's side of `ensemble_speed.py` and `planner_speed.py`, for its own Python.

Its classes are built as its examples for HalfCheetah do, by hand.
"""

from types import SimpleNamespace

import numpy as np
import torch
from mbrl.algorithms.mbpo import rollout_model_and_populate_sac_buffer
from mbrl.models import GaussianMLP, ModelEnv, ModelTrainer, OneDTransitionRewardModel
from mbrl.planning import CEMOptimizer
from mbrl.planning.sac_wrapper import SACAgent
from mbrl.third_party.pytorch_sac_pranz24.sac import SAC
from mbrl.util import ReplayBuffer
from mbrl.util.replay_buffer import BootstrapIterator
from peers import SIZES, serve


def main():
    sizes = SimpleNamespace(**SIZES)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    high = np.ones(sizes.action, np.float32)
    spaces = SimpleNamespace(observation_space=None, action_space=None)
    network = GaussianMLP(
        sizes.observation + sizes.action,
        sizes.observation + 1,
        "cpu",
        num_layers=sizes.layers,
        ensemble_size=sizes.members,
        hid_size=sizes.units,
        propagation_method="random_model",
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )
    model = OneDTransitionRewardModel(
        network, normalize=True, normalize_double_precision=True, num_elites=sizes.elites
    )
    model.set_elite(list(range(sizes.elites)))
    world = ModelEnv(spaces, model, lambda _, seen: torch.zeros(len(seen), 1, dtype=torch.bool))

    replay = ReplayBuffer(sizes.rows, (sizes.observation,), (sizes.action,), rng=rng)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    observation, action = (
        draw(sizes.rows, sizes.observation),
        np.tanh(draw(sizes.rows, sizes.action)),
    )
    no = np.zeros(sizes.rows, bool)
    replay.add_batch(
        observation, action, observation + draw(*observation.shape), draw(sizes.rows), no, no
    )
    data = replay.get_all()
    model.update_normalizer(data)
    agent = actor_critic(sizes, high)
    serve(
        {
            "training step": step(sizes, model, data),
            "rollouts": rollouts(sizes, world),
            "policy and rollouts": policy(sizes, world, replay, agent),
            "update of SAC": updates(sizes, replay, agent),
            "plan": plan(sizes, world, high),
        }
    )


def step(sizes, model, data):
    trainer = ModelTrainer(model, optim_lr=1e-3, weight_decay=1e-5)
    batches = BootstrapIterator(
        data, sizes.batch, sizes.members, shuffle_each_epoch=True, permute_indices=False
    )
    return sizes.rows // sizes.batch, lambda: trainer.train(
        batches, num_epochs=1, evaluate=False, silent=True
    )


def rollouts(sizes, world):
    rng = np.random.default_rng(1)
    observation = rng.standard_normal((sizes.rollouts, sizes.observation), np.float32)
    action = np.tanh(rng.standard_normal((sizes.rollouts, sizes.action), np.float32))

    def call():
        world.step(action, world.reset(observation), sample=True)

    return 1, call


def actor_critic(sizes, high):
    settings = SimpleNamespace(
        gamma=0.99,
        tau=0.005,
        alpha=0.2,
        policy="Gaussian",
        target_update_interval=1,
        automatic_entropy_tuning=True,
        target_entropy=-1,
        hidden_size=256,
        device="cpu",
        lr=3e-4,
    )
    space = SimpleNamespace(shape=high.shape, low=-high, high=high)
    return SACAgent(SAC(sizes.observation, space, settings))


def policy(sizes, world, replay, agent):
    imagined = ReplayBuffer(4 * sizes.rollouts, (sizes.observation,), (sizes.action,))
    return 1, lambda: rollout_model_and_populate_sac_buffer(
        world, replay, agent, imagined, True, 1, sizes.rollouts
    )


def updates(sizes, replay, agent):
    def call():
        for i in range(sizes.updates):
            agent.sac_agent.update_parameters(replay, sizes.batch, i, reverse_mask=True)

    return sizes.updates, call


def plan(sizes, world, high):
    bounds = np.tile(high, (sizes.horizon, 1))
    search = CEMOptimizer(
        sizes.iterations,
        sizes.best / sizes.population,
        sizes.population,
        (-bounds).tolist(),
        bounds.tolist(),
        alpha=0.1,
        device=torch.device("cpu"),
        return_mean_elites=True,
    )
    observation = np.zeros(sizes.observation, np.float32)

    def score(actions):
        return world.evaluate_action_sequences(actions, observation, sizes.particles)

    return 1, lambda: search.optimize(score, x0=torch.zeros(bounds.shape))


if __name__ == "__main__":
    main()
