"""Each probe's stated values against exhaustive search through its own transitions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import envs
from dreamerzero.envs.probes import (
    PROBES,
    ContinuousActionProbe,
    EnvState,
    MemoryProbe,
    TruncationProbe,
)

DISCOUNT = 0.9
FINITE = [probe for probe in PROBES if probe is not TruncationProbe]


def search(step, state, actions):
    """The best discounted return from `state`: every action sequence is tried."""
    returns = []
    for action in actions:
        _, after, reward, terminated, _ = step(state, action)
        future = 0.0 if terminated else search(step, after, actions)
        returns.append(float(reward) + DISCOUNT * future)
    return max(returns)


@pytest.mark.parametrize("kind", FINITE)
def test_values(kind):
    probe = kind()
    params = probe.default_params
    step = jax.jit(lambda state, action: probe.step_env(jax.random.key(0), state, action, params))
    actions = [-0.5, 0.5] if kind is ContinuousActionProbe else range(probe.num_actions)
    values = probe.values(DISCOUNT)
    assert values.shape == (probe.num_symbols,)
    shown = set()
    for cue in range(2):
        for time in range(probe.length):
            state = EnvState(time=jnp.int32(time), cue=jnp.int32(cue))
            symbol = int(np.argmax(probe.get_obs(state)))
            shown.add(symbol)
            np.testing.assert_allclose(search(step, state, actions), values[symbol], rtol=1e-6)
    assert shown == set(range(probe.num_symbols))


def rollout(probe, policy, steps):
    env = envs.make(probe)

    @partial(jax.jit, static_argnums=2)
    def run(env, key, steps):
        def step(carry, key):
            state, timestep = carry
            state, after, successor = env.step(key, state, policy(timestep))
            return (state, after), (timestep, successor)

        return jax.lax.scan(step, env.reset(key), jax.random.split(key, steps))[1]

    return jax.tree.map(np.asarray, run(env, jax.random.key(0), steps))


def test_truncation_probe_never_terminates():
    _, successor = rollout(TruncationProbe(), lambda timestep: 0, 35)
    np.testing.assert_array_equal(np.flatnonzero(successor.truncated), [9, 19, 29])
    assert not successor.terminated.any()
    np.testing.assert_array_equal(successor.reward, 1.0)
    # One symbol and a reward of 1 for ever: v = 1 + γ v.
    value = TruncationProbe().values(DISCOUNT)
    np.testing.assert_allclose(value, 1.0 + DISCOUNT * value)


def test_memory_probe_shows_the_cue_once_and_pays_its_echo():
    seen, successor = rollout(MemoryProbe(), lambda timestep: 1, 400)
    symbols = np.argmax(seen.observation, axis=-1).reshape(100, 4)
    rewards = successor.reward.reshape(100, 4)
    assert set(symbols[:, 0]) == {0, 1}
    np.testing.assert_array_equal(symbols[:, 1:], np.tile([2, 3, 4], (100, 1)))
    np.testing.assert_array_equal(rewards[:, :3], 0.0)
    np.testing.assert_array_equal(rewards[:, 3], symbols[:, 0] == 1)
    assert 0.3 < rewards[:, 3].mean() < 0.7  # without memory, half


def test_both_ends_come_at_once():
    _, successor = rollout(PROBES[-1](), lambda timestep: 0, 9)
    np.testing.assert_array_equal(np.flatnonzero(successor.terminated), [2, 5, 8])
    np.testing.assert_array_equal(successor.terminated, successor.truncated)


@pytest.mark.parametrize("kind", PROBES)
def test_tabular_shows_the_same_symbol(kind):
    states = [EnvState(time=jnp.int32(t), cue=jnp.int32(c)) for t in range(4) for c in range(2)]
    for state in states:
        assert int(kind(tabular=True).get_obs(state)) == int(np.argmax(kind().get_obs(state)))
    assert envs.make(kind(tabular=True)).spec.observation.num == kind.num_symbols
