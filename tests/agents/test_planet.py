import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import agents, envs
from dreamerzero.types import Prediction, UsageError
from dreamerzero.worlds.rssm import RSSM
from tests.agents.test_dreamer import TINY

SMALL = {name: TINY[name] for name in ("num_envs", "batch_size", "batch_length", "capacity")} | {
    "deter": 16,
    "hidden": 8,
    "stoch": 4,
    "units": 8,
    "planned": 5,
}


@pytest.fixture(scope="module")
def env():
    return envs.make("Pendulum-v1")


def small(env, **fields):
    return agents.make("planet", env, "xs", **(SMALL | fields))


def test_it_follows_the_plan_that_its_world_rewards(env, monkeypatch):
    """A world that pays for being near 0.6 gets 0.6; exploring adds noise of the asked size."""

    def step(self, params, key, action, latent):
        reward = -jnp.square(action[:, 0] - 0.6)
        return Prediction(reward, jnp.ones_like(reward)), latent

    monkeypatch.setattr(RSSM, "step", step)
    agent = small(env, population=256, elites=32, iterations=8, noise=0.2)
    params = agent.init(jax.random.key(0)).params
    _, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 256))

    def act(explore):
        key = jax.random.key(2)
        return agent.act(params, key, timestep, agent.memory(256), explore=explore)

    greedy, explored = act(False), act(True)
    np.testing.assert_allclose(greedy.action, 0.6, atol=0.05)
    assert np.abs(explored.action).max() <= 1.0
    np.testing.assert_allclose((explored.action - greedy.action).std(), 0.2, rtol=0.2)
    np.testing.assert_array_equal(explored.memory.action, explored.action)


def test_learning_lowers_the_loss_and_repeats_to_the_bit(env):
    from dreamerzero import training

    agent = small(env)
    state, metrics = training.train(agent, env, jax.random.key(0), steps=1200)
    again, _ = training.train(agent, env, jax.random.key(0), steps=1200)
    for a, b in zip(jax.tree.leaves(state.agent), jax.tree.leaves(again.agent), strict=True):
        np.testing.assert_array_equal(a, b)
    loss = metrics["train"]["loss/reconstruction"]
    assert loss[-20:].mean() < 0.7 * loss[:5].mean()


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("CartPole-v1", {}, "continuous.*Try dreamer"),
        ("Pendulum-v1", {"elites": 100}, "elites"),
        ("Pendulum-v1", {"stoch": 0}, "stoch is at least 1"),
        ("Pendulum-v1", {"horizon": 0.0}, "horizon is above 0"),
        ("Pendulum-v1", {"capacity": 32}, "capacity"),
    ],
)
def test_what_it_cannot_do_is_refused(name, fields, message):
    with pytest.raises(UsageError, match=message):
        small(envs.make(name), **fields)
