"""Evaluation: whole episodes in fresh environments, each counted once."""

import jax
import jax.numpy as jnp
import numpy as np

from dreamerzero import envs
from dreamerzero.envs.probes import TruncationProbe
from dreamerzero.training import evaluation
from tests.toy import Toy


def test_every_episode_counts_once_and_whole(agent, env):
    params = jnp.zeros((6, 2)).at[0].set(jnp.array([1.0, -1.0]))
    returns = evaluation.evaluate(agent, params, env, jax.random.key(0), episodes=8)
    # The last step's action does not see the cue and is 0, so that half of the cues pay.
    assert returns.shape == (8,)
    assert {*np.unique(returns)} == {0.0, 1.0}


def test_against_a_plain_loop(agent, env):
    """Greedy actions written out in numpy; the environment replayed step by step."""
    params = np.asarray(jax.random.normal(jax.random.key(5), (6, 2)))
    key, episodes = jax.random.key(1), 5
    reset_key, run_key = jax.random.split(key)
    expected = np.zeros(episodes)
    for i in range(episodes):
        state, timestep = env.reset(jax.random.split(reset_key, episodes)[i])
        for step in range(4):
            _, env_key = jax.random.split(jax.random.fold_in(run_key, step))
            q = np.append(np.asarray(timestep.observation), 1.0) @ params
            state, timestep, successor = env.step(
                jax.random.split(env_key, episodes)[i], state, jnp.int32(np.argmax(q))
            )
            expected[i] += successor.reward
        assert successor.is_last
    actual = evaluation.evaluate(agent, jnp.array(params), env, key, episodes=episodes)
    np.testing.assert_array_equal(actual, expected)


def test_truncation_ends_an_episode():
    env = envs.make(TruncationProbe())
    agent = Toy(spec=env.spec)
    returns = evaluation.evaluate(agent, jnp.zeros((2, 2)), env, jax.random.key(0), episodes=3)
    np.testing.assert_array_equal(returns, 10.0)
    assert evaluation.unfinished(returns) == ""


def test_an_endless_episode_has_no_return():
    env = envs.make(TruncationProbe())
    agent = Toy(spec=env.spec)
    returns = evaluation.evaluate(
        agent, jnp.zeros((2, 2)), env, jax.random.key(0), episodes=3, limit=9
    )
    assert np.isnan(returns).all()
    assert evaluation.unfinished(returns).startswith("3 of 3")


def test_lanes_are_single_evaluations(agent, env):
    params = jax.random.normal(jax.random.key(0), (3, 6, 2))
    keys = jax.random.split(jax.random.key(1), 3)
    lanes = evaluation.evaluate_lanes(agent, params, env, keys, episodes=4)
    single = evaluation.evaluate(agent, params[2], env, keys[2], episodes=4)
    np.testing.assert_array_equal(lanes[2], single)


def test_exploring_is_a_choice(agent, env):
    # Always at random, half of the episodes pay however good the greedy action is.
    agent = agent.replace(epsilon=1.0)
    params = jnp.zeros((6, 2)).at[-1].set(jnp.array([1.0, 0.0]))
    key = jax.random.key(2)
    greedy = evaluation.evaluate(agent, params, env, key)
    explored = evaluation.evaluate(agent, params, env, key, explore=True)
    assert not np.array_equal(greedy, explored)
