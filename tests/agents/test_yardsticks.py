"""What DQN, PPO and SAC have in common."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import agents, envs
from dreamerzero.agents.dqn import DQN
from dreamerzero.training import program
from dreamerzero.types import Box, Discrete, EnvSpec
from tests.agents import test_dqn, test_ppo, test_sac

YARDSTICKS = pytest.mark.parametrize(
    ("name", "task", "fields"),
    [
        ("dqn", "CartPole-v1", test_dqn.SMALL | test_dqn.RAINBOW),
        ("ppo", "CartPole-v1", test_ppo.SMALL),
        ("ppo", "Pendulum-v1", test_ppo.SMALL),
        ("sac", "Pendulum-v1", test_sac.SMALL),
    ],
)


@YARDSTICKS
def test_lanes_are_single_runs_and_a_new_number_is_no_new_program(name, task, fields):
    env = envs.make(task)
    rates = jnp.array([3e-3, 1e-3])
    traces = []

    @jax.jit
    def run(agent, key):
        traces.append(1)
        state, _ = program.train(agent, env, key, 600)
        return state.agent.params

    def agent(rate):
        return agents.make(name, env, **(fields | {"learning_rate": rate}))

    singles = [run(agent(rate), jax.random.key(0)) for rate in rates]
    assert len(traces) == 1
    lanes = jax.jit(jax.vmap(run, (0, None)))(agent(rates), jax.random.key(0))
    for lane, single in enumerate(singles):  # but for the rounding of batched products
        jax.tree.map(
            lambda a, b, lane=lane: np.testing.assert_allclose(a[lane], b, rtol=2e-2, atol=2e-3),
            lanes,
            single,
        )
    assert any(not np.allclose(a, b) for a, b in zip(*map(jax.tree.leaves, singles), strict=True))


@pytest.mark.parametrize("name", ["dqn", "ppo", "sac"])
@pytest.mark.parametrize(
    "space",
    [Discrete(5), Box((10, 10, 4), "bool", 0.0, 1.0), Box((64, 64, 3), "uint8", 0.0, 255.0)],
)
def test_every_kind_of_observation_is_taken_and_kept_as_it_came(name, space):
    action = Box((2,), low=-1.0, high=1.0) if name == "sac" else Discrete(3)
    agent = agents.AGENTS[name](spec=EnvSpec("seen", space, action))
    agent = agent.replace(units=8, depth=2, num_envs=2)
    agent = agent.replace(**({"rollout": 4} if name == "ppo" else {"capacity": 64}))
    agent.check()
    state = jax.eval_shape(agent.init, jax.random.key(0))
    kept = [x for x in jax.tree.leaves(state) if x.shape[-len(space.shape) :] == space.shape]
    assert {str(leaf.dtype) for leaf in kept} >= {space.dtype}
    observation = jax.ShapeDtypeStruct((2, *space.shape), space.dtype)
    flag, number = jax.ShapeDtypeStruct((2,), bool), jax.ShapeDtypeStruct((2,), jnp.float32)
    timestep = program.TimeStep(observation, number, flag, flag, flag)
    act = partial(agent.act, memory=(), explore=True)
    made = jax.eval_shape(lambda p, t: act(p, jax.random.key(0), t), state.params, timestep)
    assert made.action.shape == (2, *action.shape) and made.action.dtype == action.dtype


def test_a_replay_of_frames_keeps_every_observation_once():
    spec = EnvSpec("seen", Box((10, 10, 4), "bool", 0.0, 1.0), Discrete(3))
    replay = jax.eval_shape(DQN(spec=spec, n_step=5).init, jax.random.key(0)).replay
    assert replay.streams.frames.observation.size == 100_000 * 400
