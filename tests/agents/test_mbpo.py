from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import agents, envs, training
from dreamerzero.agents.sac import SAC
from dreamerzero.envs import probes
from dreamerzero.replay import ring
from dreamerzero.training import program
from dreamerzero.types import Prediction, TimeStep, Transition, UsageError
from dreamerzero.worlds.ensemble import Ensemble, Latent
from tests.agents import test_sac

SMALL = test_sac.SMALL | {
    "train_ratio": 5 * 32.0,
    "temperature": 1e-4,
    "target_entropy": -5.0,
    "prefill": 40,
    "capacity": 500,
    "refit_every": 40,
    "rollouts": 100,
    "shortest": 1,
    "longest": 1,
    "members": 3,
    "elites": 2,
    "world_units": 16,
}


def small(env, **fields):
    return agents.make("mbpo", env, "xs", **(SMALL | fields))


@pytest.fixture(scope="module")
def pendulum():
    return envs.make("Pendulum-v1")


def seen(agent, number=50):
    """A state after some steps whose first coordinate counts them."""
    state = jax.jit(agent.init)(jax.random.key(0))
    steps = test_sac.transitions(number, agent.spec)
    steps = steps.replace(observation=steps.observation.at[:, 0].set(jnp.arange(number) * 1.0))
    return state.replace(replay=ring.add(state.replay, steps))


def stand_in(ends_above):
    """A world in which each step adds 1000 to the first coordinate, and its end is known."""

    def step(self, params, key, action, latent):
        observation = latent.observation.at[:, 0].add(1000.0)
        going_on = (observation[:, 0] < ends_above).astype(jnp.float32)
        return Prediction(action[:, 0], going_on), Latent(observation, latent.member)

    return step


@pytest.mark.parametrize("ends_above", [np.inf, 2000.0])
def test_rollouts_branch_off_from_what_was_seen_and_begin_anew_at_an_end(
    pendulum, monkeypatch, ends_above
):
    monkeypatch.setattr(Ensemble, "step", stand_in(ends_above))
    agent = small(pendulum, longest=5)
    state = seen(agent)
    imagined = jax.jit(agent.branch)(state, jax.random.key(1), 4)
    assert imagined.count == 4 * 100
    rows = jax.tree.map(lambda x: np.asarray(x[:400]).reshape(4, 100, *x.shape[1:]), imagined.items)
    first, after = rows.observation[..., 0], rows.next_observation[..., 0]
    np.testing.assert_array_equal(after, first + 1000.0)
    np.testing.assert_array_equal(rows.reward, rows.action[..., 0])
    np.testing.assert_array_equal(rows.terminated, after >= ends_above)
    assert (first[0] < 50).all() and len(set(first[0])) > 25
    anew = rows.terminated[:-1]
    assert anew.any() == np.isfinite(ends_above)
    np.testing.assert_array_equal(first[1:][~anew], after[:-1][~anew])
    assert (first[1:][anew] < 50).all()
    assert rows.action.std() > 0.3 and np.abs(rows.action).max() <= 1.0  # explores


def test_an_end_that_is_only_likely_comes_as_often(pendulum, monkeypatch):
    def step(self, params, key, action, latent):
        return Prediction(action[:, 0], jnp.full(len(action), 0.8)), latent

    monkeypatch.setattr(Ensemble, "step", step)
    agent = small(pendulum, rollouts=5000)
    imagined = jax.jit(agent.branch)(seen(agent), jax.random.key(1), 1)
    np.testing.assert_allclose(imagined.items.terminated[:5000].mean(), 0.2, atol=0.03)


def test_rollouts_grow_as_in_the_paper(pendulum):
    """The schedule of its appendix C: k = ⌊min(max(x + (e − a)/(b − a) (y − x), x), y)⌋."""
    agent = small(pendulum, shortest=1, longest=15, grows_from=20e3, grows_until=150e3)
    for step in (0, 20_000, 29_000, 30_000, 75_000, 149_999, 150_000, 400_000):
        expected = int(min(max(1 + (step - 20e3) / 130e3 * 14, 1), 15))
        assert agent.length(jnp.int32(step)) == expected


def test_batches_are_imagined_lately_but_for_a_share(pendulum, monkeypatch):
    """Of 1000 transitions that were imagined, the 200 of the last two refits count."""
    monkeypatch.setattr(SAC, "update", lambda self, state, key, batch: (state, batch))
    agent = small(pendulum, batch_size=400, real_ratio=0.1, retained=2, longest=5)
    state = seen(agent)
    marks = test_sac.transitions(1000, agent.spec)
    marks = marks.replace(reward=1000.0 + jnp.arange(1000.0))
    state = state.replace(imagined=ring.add(state.imagined, marks))
    _, batch = jax.jit(agent.learn)(state, jax.random.key(0))
    assert isinstance(batch, Transition)
    reward = np.asarray(batch.reward)
    assert (reward < 1000).sum() == 40
    assert set(reward[reward >= 1000]) <= set(range(1800, 2000))
    assert len(set(reward[reward >= 1000])) > 150


def unchanged(self, params, optimiser, key, data, size):
    """Instead of a fit."""
    return params, optimiser, {}


class Follow(probes.ContinuousActionProbe):
    """Three steps of 1 − (a − target)²; an action of the other sign than the target turns it."""

    length = 3
    num_symbols = 6

    def symbol(self, state):
        return 2 * state.time + state.cue

    def step_env(self, key, state, action, params):
        _, after, reward, terminated, info = super().step_env(key, state, action, params)
        cue = (action[0] > 0).astype(jnp.int32)
        after = after.replace(cue=cue)
        return self.get_obs(after), after, reward, terminated, info

    def values(self, discount):
        return np.repeat(probes.BothEndsProbe().values(discount), 2)


def test_with_a_perfect_world_it_learns_what_sac_learns_from_the_real_one(monkeypatch):
    """All batches imagined, where rewards and what is seen next depend on the action."""
    env = envs.make(Follow())

    def step(self, params, key, action, latent):
        symbol = latent.observation.argmax(axis=-1)
        state = probes.EnvState(time=symbol // 2, cue=symbol % 2)
        after, _, reward, terminated, _ = jax.vmap(env.environment.step_env, (None, 0, 0, None))(
            None, state, action, None
        )
        return Prediction(reward, 1.0 - terminated), Latent(after, latent.member)

    monkeypatch.setattr(Ensemble, "step", step)
    monkeypatch.setattr(Ensemble, "fit", unchanged)
    ours = small(env, real_ratio=0.0, shortest=2, longest=2)
    fields = {name: value for name, value in SMALL.items() if hasattr(SAC, name)}
    sac = agents.make("sac", env, "xs", **fields)
    seen = jnp.eye(6)
    for agent in (ours, sac):
        state, _ = jax.jit(partial(program.train, agent, env, steps=1200))(jax.random.key(0))
        params = state.agent.params
        observation = params["observation"].normalise(seen)
        target = jnp.tile(jnp.array([[-0.5], [0.5]]), (3, 1))
        value = agent.values(state.agent.slow_critic, observation, target)
        np.testing.assert_allclose(value, [env.environment.values(0.9)] * 2, rtol=0.1)
        flag, number = jnp.zeros(6, bool), jnp.zeros(6)
        timestep = TimeStep(seen, number, flag, flag, flag)
        action = agent.act(params, jax.random.key(1), timestep, (), explore=False).action
        np.testing.assert_allclose(action, target, atol=0.1)


def test_rollouts_that_grow_are_learnt_from_as_they_grow(pendulum, monkeypatch):
    """By a step at each of three refits; batches reach back two refits of today's length."""

    def sample(ring, key, batch_size, newest=None):
        items = drawn(ring, key, batch_size, newest)
        if newest is None:
            return items
        return items.replace(reward=jnp.full(batch_size, newest, jnp.float32))

    def update(self, state, key, batch):
        return state, {"reward": batch.reward.max()}

    drawn = ring.sample
    monkeypatch.setattr(Ensemble, "step", stand_in(np.inf))
    monkeypatch.setattr(Ensemble, "fit", unchanged)
    monkeypatch.setattr(ring, "sample", sample)
    monkeypatch.setattr(SAC, "update", update)
    agent = small(pendulum, longest=3, retained=2, grows_from=40.0, grows_until=120.0)
    state, metrics = jax.jit(partial(program.train, agent, pendulum, steps=200))(jax.random.key(0))
    length = [*metrics["prefill"]["rollout_length"], *metrics["train"]["rollout_length"]]
    assert length == [1, 2, 3, 3, 3]
    assert state.agent.imagined.count == 100 * sum(length)
    lately = [*metrics["prefill"]["reward"], *metrics["train"]["reward"]]
    assert lately == [2 * 100 * k for k in length]


def test_it_comes_to_the_optimum_in_every_lane_as_in_a_single_run():
    """World, ends and behaviour learnt."""
    env = envs.make(probes.ContinuousActionProbe())
    agent = small(env)
    run = jax.jit(lambda key: program.train(agent, env, key, 600))
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    lanes, metrics = jax.jit(jax.vmap(run))(keys)
    single, alone = run(keys[1])
    np.testing.assert_allclose(metrics["prefill"]["epochs"][1], alone["prefill"]["epochs"])
    mine = jax.tree.map(lambda leaf: leaf[1], lanes.agent.params)
    for params in (mine, single.agent.params):
        returns = training.evaluate(agent, params, env, jax.random.key(1), episodes=64)
        assert returns.mean() >= 0.97  # 0.75 without seeing where the target is


def test_a_run_is_prefill_and_refits_with_all_the_updates_of_their_steps(pendulum):
    agent = small(pendulum, num_envs=4, refit_every=40, prefill=42)
    prefill, train = agent.phases(1000)
    assert (prefill.iterations, prefill.collect, prefill.prepare) == (1, 11, "refit")
    assert (train.iterations, train.collect, train.prepare) == ((1000 - 44) // 40, 10, "refit")
    assert prefill.repeats == train.repeats == 5 * 40


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("CartPole-v1", {}, "continuous.*Try dqn or ppo"),
        ("Pendulum-pixels", {}, "predicts float32 vectors"),
        ("Pendulum-v1", {"elites": 4}, "can be asked; got 4"),
        ("Pendulum-v1", {"rollouts": 0}, "rollouts"),
        ("Pendulum-v1", {"prefill": 1}, "prefill is at least 2"),
        ("Pendulum-v1", {"world_layers": 1}, "2 hidden layers or more"),
        ("Pendulum-v1", {"shortest": 2}, "longest"),
        ("Pendulum-v1", {"grows_from": 100.0, "grows_until": 50.0}, "grows_from.*under"),
        ("Pendulum-v1", {"world_units": 0}, "world_units is at least 1"),
        ("Pendulum-v1", {"refit_every": 41}, "multiple of num_envs"),
        ("Pendulum-v1", {"real_ratio": 1.5}, "real_ratio"),
    ],
)
def test_what_it_cannot_do_is_refused(name, fields, message):
    with pytest.raises(UsageError, match=message):
        small(envs.make(name), **fields)


def test_a_run_that_is_too_short_is_refused(pendulum):
    with pytest.raises(UsageError, match="at least 80 steps"):
        small(pendulum).phases(79)
