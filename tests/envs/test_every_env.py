"""Every environment keeps the house's word: one property test, one compilation each.

The oracle is gymnax's own `step_env`, which knows nothing of resets and time limits.
"""

import jax
import numpy as np
import pytest

from dreamerzero import envs
from dreamerzero.envs.probes import PROBES, TruncationProbe
from dreamerzero.types import Discrete

SLOW = {"Seaquest-MinAtar", "Freeway-MinAtar"}  # tens of seconds to compile
TERMINATING = {
    "CartPole-v1", "CartPole-pixels",
    "Asterix-MinAtar", "Breakout-MinAtar", "SpaceInvaders-MinAtar", "Catch-bsuite",
    "DeepSea-bsuite", "MemoryChain-bsuite", "UmbrellaChain-bsuite", "SimpleBandit-bsuite",
    "FrozenLake-misc",
    *(f"{probe.__module__}:{probe.__name__}" for probe in PROBES if probe is not TruncationProbe),
}  # fmt: skip
"""Where a random walk of `STEPS` meets a termination; everywhere else it meets the time limit."""
LANES, STEPS, LIMIT = 16, 48, 20


def shortened(env):
    """With a time limit that a test can reach; it is a leaf of every environment's parameters."""
    return env.replace(params=env.params.replace(max_steps_in_episode=LIMIT))


def random_action(env, key):
    action = env.spec.action
    if isinstance(action, Discrete):
        return jax.random.randint(key, (), 0, action.num)
    return jax.random.uniform(key, action.shape, minval=-1.0, maxval=1.0)


def walk(env, key):
    """A random walk: what `Env` returns, and beside it what gymnax's parts return."""

    def step(carry, key):
        state, timestep = carry
        step_key, action_key = jax.random.split(key)
        action = random_action(env, action_key)

        transition_key, reset_key = jax.random.split(step_key)
        final, after, reward, terminated, _ = env.environment.step_env(
            transition_key, state, env.scale_action(action), env.params
        )
        fresh, _ = env.environment.reset_env(reset_key, env.params)
        oracle = {
            "final": final,
            "fresh": fresh,
            "reward": reward,
            "terminated": terminated,
            "truncated": after.time >= env.params.max_steps_in_episode,
        }
        state, timestep, successor = env.step(step_key, state, action)
        return (state, timestep), (timestep, successor, oracle)

    reset_key, walk_key = jax.random.split(key)
    start = env.reset(reset_key)
    # The scan itself fails unless `step` returns the very types that `reset` returned.
    end, trace = jax.lax.scan(step, start, jax.random.split(walk_key, STEPS))
    return start, end, trace


def avals(tree):
    return [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
    "name",
    # Games have no time limits, and end with illegal moves: see test_boards.
    [name for name in envs.names() if name not in SLOW and name not in envs.GAMES]
    + [f"{probe.__module__}:{probe.__name__}" for probe in PROBES],
)
def test_env(name):
    env = shortened(envs.make(name))
    keys = jax.random.split(jax.random.key(0), LANES)
    # Compiling is nearly all of this test's cost, so let XLA not try too hard.
    program = jax.jit(
        jax.vmap(walk, (None, 0)), compiler_options={"xla_backend_optimization_level": 0}
    )
    start, end, trace = program(env, keys)
    timestep, successor, oracle = jax.tree.map(np.asarray, trace)

    # Shapes and types are the spec's, and the end of a walk can start the next one as it is.
    observation = env.spec.observation
    assert timestep.observation.shape == (LANES, STEPS, *observation.shape)
    assert start[1].observation.dtype == timestep.observation.dtype == observation.dtype
    assert timestep.reward.dtype == np.float32
    assert avals(start) == avals(end)
    assert not any(weak for *_, weak in avals(start))

    # The first time step of all.
    assert np.all(start[1].is_first)
    assert not np.any(start[1].is_last) and not np.any(start[1].reward)

    if observation.dtype == "bool":  # then nothing is lost
        assert np.isin(oracle["final"], (0.0, 1.0)).all()

    # The successor is the true outcome, with the final observation and both flags.
    cast = np.asarray(oracle["final"], observation.dtype)
    np.testing.assert_allclose(successor.observation, cast, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(successor.reward, oracle["reward"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(successor.terminated, oracle["terminated"])
    np.testing.assert_array_equal(successor.truncated, oracle["truncated"])
    assert not successor.is_first.any()
    assert np.isfinite(successor.observation).all() and np.isfinite(successor.reward).all()

    # What the agent sees next is the successor or, after an end, a fresh episode.
    over = successor.is_last
    np.testing.assert_array_equal(timestep.is_first, over)
    for field in ("observation", "reward", "terminated", "truncated"):
        seen, true = getattr(timestep, field), getattr(successor, field)
        np.testing.assert_allclose(seen[~over], true[~over], rtol=1e-5, atol=1e-6)
    fresh = np.asarray(oracle["fresh"], observation.dtype)
    np.testing.assert_allclose(timestep.observation[over], fresh[over], rtol=1e-5, atol=1e-6)
    assert not timestep.is_last[over].any() and not timestep.reward[over].any()

    # The walk met the end that it should have met.
    ends = successor.terminated if name in TERMINATING else successor.truncated
    assert ends.any()
