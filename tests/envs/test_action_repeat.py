"""An action that is repeated is a loop over plain steps, up to the end of the episode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import envs
from dreamerzero.types import UsageError

REPEAT = 4


def loop(step, state, action):
    """The oracle: takes an action up to `REPEAT` times by a `step` that repeats nothing."""
    rewards = []
    for _ in range(REPEAT):
        state, _, successor = step(jax.random.key(0), state, action)
        rewards.append(float(successor.reward))
        if successor.is_last:
            break
    return successor, rewards


@pytest.mark.parametrize(
    ("name", "limit", "actions"),
    [
        ("CartPole-v1", 500, [1, 0, 1, 1, 1, 1, 1]),  # falls within an action
        ("CartPoleSwingup-v0", 10, [[0.3], [-1.0], [0.7]]),  # and here the time is up
    ],
)
def test_repeated_actions_are_a_loop(name, limit, actions):
    plain = envs.make(name)
    plain = plain.replace(params=plain.params.replace(max_steps_in_episode=limit))
    repeated = envs.make(plain, action_repeat=REPEAT)
    step, once = jax.jit(repeated.step), jax.jit(plain.step)
    state, timestep = repeated.reset(jax.random.key(1))
    for action in jnp.array(actions):
        expected, rewards = loop(once, state, action)
        state, timestep, successor = step(jax.random.key(2), state, action)
        np.testing.assert_allclose(successor.observation, expected.observation, rtol=1e-5)
        np.testing.assert_allclose(successor.reward, sum(rewards), rtol=1e-5)
        assert successor.terminated == expected.terminated
        assert successor.truncated == expected.truncated
        assert timestep.is_first == expected.is_last and not successor.is_first
        if successor.is_last:
            break
        np.testing.assert_array_equal(timestep.observation, successor.observation)
        assert timestep.reward == successor.reward
    assert successor.is_last and len(rewards) < REPEAT
    assert timestep.is_first and not timestep.reward


def test_an_environment_keeps_its_repeat():
    env = envs.make("Catch-bsuite", action_repeat=2)
    assert env.action_repeat == envs.make(env).action_repeat == 2
    assert envs.make(env, action_repeat=1).action_repeat == 1
    assert envs.make("Catch-bsuite").action_repeat == 1


@pytest.mark.parametrize("repeat", [0, -1, 1.5])
def test_it_is_a_whole_number(repeat):
    with pytest.raises(UsageError, match=f"action_repeat is {repeat}"):
        envs.make("Catch-bsuite", action_repeat=repeat)


def test_no_move_of_a_game_is_repeated():
    with pytest.raises(UsageError, match="is a game"):
        envs.make("TicTacToe-pgx", action_repeat=2)
