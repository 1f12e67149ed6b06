"""What DQN, PPO and SAC have in common."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from dreamerzero import agents, envs, training
from dreamerzero.agents.dqn import DQN
from dreamerzero.envs import probes
from dreamerzero.training import program
from dreamerzero.types import Box, Discrete, EnvSpec
from tests.agents import test_dqn, test_ppo, test_sac

KINDS = {
    "dqn": ("dqn", DQN.PRESETS["plain"] | test_dqn.SMALL),
    "rainbow": ("dqn", test_dqn.SMALL | test_dqn.RAINBOW),
    "ppo": ("ppo", test_ppo.SMALL),
    "ppo, continuous": ("ppo", test_ppo.SMALL),
    # Next to no reward for entropy: values are those of the probes.
    "sac": ("sac", test_sac.SMALL | {"temperature": 1e-4, "target_entropy": -5.0}),
}


@struct.dataclass
class Params(probes.EnvParams):
    max_steps_in_episode: int = 3
    length: int = 3


CONTINUOUS = "ppo, continuous", "sac"


class EndsProbe(probes.BothEndsProbe):
    """Reward 1 at every step. When episodes end and when they are cut are parameters: one program
    serves for both."""

    def __init__(self, continuous):
        super().__init__()
        self.actions = probes.ContinuousActionProbe() if continuous else probes.ActionProbe()

    @property
    def default_params(self):
        return Params()

    def is_terminated(self, state, params):
        return state.time >= params.length

    def action_space(self, params=None):
        return self.actions.action_space(params)


def value(agent, state, observation):
    """What an agent's critics say, `[..., N]` of observations `[N, ...]`."""
    params = state.params
    observation = params["observation"].normalise(observation)
    if isinstance(agent, agents.AGENTS["dqn"]):
        return agent.values(agent.net.apply(params["slow"], observation)).max(axis=-1)
    if isinstance(agent, agents.AGENTS["ppo"]):
        return agent.value(params, observation)
    return agent.values(state.slow_critic, observation, jnp.zeros((len(observation), 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_time_limit_is_not_an_end_and_an_end_at_the_limit_is(kind):
    """V = 1 / (1 − γ) for ever, although episodes are cut: who takes the cut for the end learns
    about half of it. Who bootstraps past an end that falls on the limit learns too much."""
    name, fields = KINDS[kind]
    env = envs.make(EndsProbe(continuous=kind in CONTINUOUS))
    agent = agents.make(name, env, **fields)
    train = jax.jit(lambda *args: program.train(*args, 6000))  # its own: it is counted below
    optimum = env.environment.values(0.9)
    for length, limit, expected in ((3, 3, optimum), (1_000_000, 10, np.full(3, 10.0))):
        params = Params(length=length, max_steps_in_episode=limit)
        state, _ = train(agent, env.replace(params=params), jax.random.key(0))
        found = value(agent, state.agent, jnp.eye(3))
        expected = np.broadcast_to(expected, found.shape)
        np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.05)
    assert train._cache_size() == 1


@pytest.mark.parametrize("kind", ["dqn", "ppo", "ppo, continuous", "sac"])
def test_behaviour_comes_to_the_optimum_in_every_lane_as_in_a_single_run(kind):
    """And another learning rate is no new program."""
    name, fields = KINDS[kind]
    continuous = kind in CONTINUOUS
    env = envs.make(probes.ContinuousActionProbe() if continuous else probes.ActionProbe())
    rates = fields["learning_rate"] * jnp.array([1.0, 0.7])
    many = agents.make(name, env, **(fields | {"learning_rate": rates}))

    @jax.jit
    def run(agent, key):
        state, metrics = program.train(agent, env, key, 4096)
        beginning = jax.tree.map(lambda leaf: leaf[:5], metrics["train"])
        return state.agent.params, beginning

    singles = [run(many.replace(learning_rate=rate), jax.random.key(0)) for rate in rates]
    assert run._cache_size() == 1
    axes = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, many)
    lanes = jax.jit(jax.vmap(run, (axes, None)))(many, jax.random.key(0))
    for lane, single in enumerate(singles):
        mine = jax.tree.map(lambda leaf, lane=lane: leaf[lane], lanes)
        # Later the rounding of batched products has made other actions of it.
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), mine[1], single[1])
        for params, _ in (mine, single):
            returns = training.evaluate(many, params, env, jax.random.key(1), episodes=64)
            assert returns.mean() >= 0.97  # 0.75 without seeing where the target is


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
