from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import agents, envs, planning, training
from dreamerzero.agents.pets import PLANNERS
from dreamerzero.envs import probes
from dreamerzero.training import program
from dreamerzero.types import Prediction, UsageError
from dreamerzero.worlds.ensemble import PARTICLES, Ensemble

SMALL = {
    "num_envs": 4,
    "prefill": 40,
    "refit_every": 40,
    "capacity": 500,
    "particles": 4,
    "planned": 4,
    "members": 3,
    "best": 2,
    "units": 16,
}


@pytest.fixture(scope="module")
def pendulum():
    return envs.make("Pendulum-v1")


def small(env, **fields):
    return agents.make("pets", env, "xs", **(SMALL | fields))


def acting(agent, env, batch_size):
    """A function that acts in fresh episodes, in a world that has seen something."""
    params = jax.jit(agent.init)(jax.random.key(0)).params
    world = params["world"]
    moments = world.inputs.replace(count=jnp.float32(1.0))
    params = {"world": world.replace(inputs=moments)}
    _, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), batch_size))
    return params, timestep, jax.jit(partial(agent.act, explore=False))


@pytest.mark.parametrize("planner", PLANNERS)
def test_every_planner_follows_what_its_world_rewards(pendulum, monkeypatch, planner):
    """A world that pays for being near 0.6 gets 0.6, now and in what is kept for the next step."""

    def step(self, params, key, action, latent):
        reward = -jnp.square(action[:, 0] - 0.6)
        return Prediction(reward, jnp.ones_like(reward)), latent

    monkeypatch.setattr(Ensemble, "step", step)
    fields = {"population": 256, "elites": 16, "iterations": 8, "optimism": 0.05, "colour": 0.5}
    agent = small(pendulum, planner=planner, **fields)
    params, timestep, act = acting(agent, pendulum, 16)
    action, memory, _ = act(params, jax.random.key(2), timestep, agent.memory(16))
    # The best of 256 sequences of four numbers is not very good in each of them.
    np.testing.assert_allclose(action, 0.6, atol=0.6 if planner == "random" else 0.15)
    assert abs(action.mean() - 0.6) < 0.1
    if planner != "random":
        np.testing.assert_allclose(memory.mean[:, :-1], 0.6, atol=0.15)
        end = memory.mean[:, -2] if planner == "icem" else 0.0
        np.testing.assert_array_equal(memory.mean[:, -1], end)
    kept = {"icem": 5}.get(planner, 0)
    assert memory.kept.shape == (16, kept, 4, 1)
    if kept:
        np.testing.assert_allclose(memory.kept, 0.6, atol=0.3)


def test_a_search_begins_where_the_last_one_ended_but_not_in_a_new_episode(pendulum, monkeypatch):
    """A world without any preference leaves the plan where it is, on average."""

    def step(self, params, key, action, latent):
        return Prediction(jnp.zeros(len(action)), jnp.ones(len(action))), latent

    monkeypatch.setattr(Ensemble, "step", step)
    agent = small(pendulum, spread=0.01, momentum=0.0)
    params, timestep, act = acting(agent, pendulum, 8)
    planned = agent.memory(8).replace(mean=jnp.full((8, 4, 1), 0.5))
    first = jnp.arange(8) < 3
    action, memory, _ = act(params, jax.random.key(2), timestep.replace(is_first=first), planned)
    expected = np.where(first, 0.0, 0.5)
    np.testing.assert_allclose(action[:, 0], expected, atol=0.05)
    np.testing.assert_allclose(memory.mean[:, :-1, 0], np.stack([expected] * 3, 1), atol=0.05)


def test_before_the_first_fit_actions_are_anything(pendulum):
    agent = small(pendulum)
    params = jax.jit(agent.init)(jax.random.key(0)).params
    _, timestep = jax.vmap(pendulum.reset)(jax.random.split(jax.random.key(1), 1000))
    action, memory, _ = jax.jit(partial(agent.act, explore=True))(
        params, jax.random.key(2), timestep, agent.memory(1000)
    )
    assert not memory.mean.any()
    np.testing.assert_allclose(np.histogram(action, 4, (-1, 1))[0] / 1000, 0.25, atol=0.06)


@pytest.mark.parametrize("propagation", PARTICLES)
def test_it_comes_to_the_optimum(propagation):
    """World and ends learnt, in one-step episodes."""
    env = envs.make(probes.ContinuousActionProbe())
    agent = small(env, propagation=propagation, learning_rate=3e-3)
    state, _ = jax.jit(partial(program.train, agent, env, steps=200))(jax.random.key(0))
    returns = training.evaluate(agent, state.agent.params, env, jax.random.key(1), episodes=64)
    assert returns.mean() >= 0.95  # 0.75 without seeing where the target is


@pytest.mark.parametrize("planner", ["icem", "mppi"])  # for cem see planning/test_shooting.py
def test_in_the_true_dynamics_it_swings_the_pendulum_up(pendulum, planner):
    fields = {"planned": 15, "population": 48, "elites": 6, "iterations": 3}
    agent = small(pendulum, planner=planner, **fields)

    @jax.jit
    def episode(key):
        state, _ = pendulum.reset(jax.random.fold_in(key, 200))
        memory = jax.tree.map(lambda leaf: leaf[0], agent.memory(1))

        def body(carry, key):
            state, memory = carry
            plan_key, step_key = jax.random.split(key)
            score = planning.scorer(pendulum.rules(), state)
            action, memory = agent.plan(plan_key, score, memory)
            state, _, successor = pendulum.step(step_key, state, action)
            return (state, memory), successor.reward

        return jax.lax.scan(body, (state, memory), jax.random.split(key, 200))[1].sum()

    returns = jax.vmap(episode)(jax.random.split(jax.random.key(0), 4))
    assert returns.min() > -400 and returns.mean() > -250


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("CartPole-v1", {}, "continuous.*Try dqn or muzero"),
        ("Pendulum-pixels", {}, "predicts float32 vectors"),
        ("Pendulum-v1", {"best": 4}, "can be asked; got 4"),
        ("Pendulum-v1", {"elites": 100}, "elites"),
        ("Pendulum-v1", {"planner": "cme"}, "random, cem, icem, mppi"),
        ("Pendulum-v1", {"propagation": "ts2"}, "ts1, tsinf, mean"),
        ("Pendulum-v1", {"refit_every": 41}, "multiple of num_envs"),
        ("Pendulum-v1", {"capacity": 39}, r"capacity \(39\) must hold the 40 steps"),
        ("Pendulum-v1", {"particles": 0}, "particles"),
        ("Pendulum-v1", {"units": 0}, "units is at least 1"),
        ("Pendulum-v1", {"optimism": 0.0}, "optimism is above 0"),
        ("Pendulum-v1", {"kept": 2.0}, "kept is a share"),
        ("Pendulum-v1", {"discount": 1.5}, "discount is a share"),
        ("Pendulum-v1", {"decay": 0.5}, "decay is at least 1"),
    ],
)
def test_what_it_cannot_do_is_refused(name, fields, message):
    with pytest.raises(UsageError, match=message):
        small(envs.make(name), **fields)


def test_a_run_that_is_too_short_is_refused(pendulum):
    with pytest.raises(UsageError, match="at least 80 steps"):
        small(pendulum).phases(79)
