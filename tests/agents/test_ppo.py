from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import agents, envs
from dreamerzero.agents.ppo import PPO, Experience, Lesson, clipped_objective
from dreamerzero.training import program
from dreamerzero.types import Phase, Transition, UsageError

SMALL = {
    "num_envs": 8,
    "rollout": 16,
    "layers": 1,
    "units": 16,
    "discount": 0.9,
    "entropy": 0.0,
    "learning_rate": 1e-2,
}


@jax.jit
def fresh(agent):
    """A state in which nothing was seen yet."""
    return agent.init(jax.random.key(0))


def small(env, **fields):
    return agents.make("ppo", env, **(SMALL | fields))


@partial(jax.jit, static_argnames="env")
def prepared(agent, env):
    """A state that has one rollout, and a policy and a critic that say something."""
    state = program.start(agent, env, jax.random.key(0))
    leaves, tree = jax.tree.flatten(
        {name: state.agent.params[name] for name in ("actor", "critic")}
    )
    noisy = [p + 0.1 * jnp.cos(7.0 * jnp.arange(p.size)).reshape(p.shape) for p in leaves]
    params = state.agent.params | tree.unflatten(noisy)
    state = state.replace(agent=state.agent.replace(params=params))
    state, _ = program.iteration(agent, env, Phase("look", 1, agent.rollout, learn=""), state)
    return state.agent


@pytest.mark.parametrize("seed", range(3))
def test_the_clipped_objective_matches_a_loop(seed):
    rng = np.random.default_rng(seed)
    ratio, advantage = np.exp(rng.normal(size=100)), rng.normal(size=100)
    expected = []
    for rho, a in zip(ratio, advantage):
        if a >= 0:
            expected.append(min(rho, 1.2) * a)
        else:
            expected.append(max(rho, 0.8) * a)
    found = clipped_objective(jnp.float32(ratio), jnp.float32(advantage), 0.2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_learning_begins_with_the_policy_that_acted(name):
    """Then every ratio is 1 and nothing is clipped."""
    env = envs.make(name)
    agent = small(env)
    state = prepared(agent, env)
    params, lesson = agent.lesson(state.params, state.experience)
    metrics = jax.jit(agent.loss)(params, lesson)[1]
    np.testing.assert_allclose(metrics["kl"], 0.0, atol=1e-6)
    assert metrics["clipped"] == 0.0
    np.testing.assert_allclose(metrics["loss/actor"], 0.0, atol=1e-5)  # advantages are centred
    after, _ = jax.jit(agent.learn)(state, jax.random.key(1))
    assert after.params["observation"].count == state.params["observation"].count + 128


def test_the_loss_matches_a_float64_loop():
    env = envs.make("CartPole-v1")
    agent = small(env, entropy=0.03, value_scale=0.7)
    state = prepared(agent, env)
    params, lesson = agent.lesson(state.params, state.experience)
    rng = np.random.default_rng(0)
    shift = jnp.asarray(rng.normal(0, 0.5, lesson.log_prob.shape), jnp.float32)
    lesson = lesson.replace(log_prob=lesson.log_prob + shift)
    found, metrics = agent.loss(params, lesson)

    logits = np.float64(agent.actor.apply(params["actor"], lesson.observation))
    value = np.float64(agent.critic.apply(params["critic"], lesson.observation))[:, 0]
    a = np.float64(lesson.advantage)
    a = (a - a.mean()) / a.std()
    total, clipped = 0.0, 0
    for i, action in enumerate(np.asarray(lesson.action)):
        p = np.exp(logits[i] - logits[i].max())
        p /= p.sum()
        rho = p[action] / np.exp(np.float64(lesson.log_prob[i]))
        total -= min(rho * a[i], np.clip(rho, 0.8, 1.2) * a[i])
        total += 0.7 * 0.5 * (value[i] - np.float64(lesson.value[i])) ** 2
        total -= 0.03 * -np.sum(p * np.log(p))
        clipped += abs(rho - 1) > 0.2
    np.testing.assert_allclose(found, total / len(a), rtol=1e-4)
    np.testing.assert_allclose(metrics["clipped"], clipped / len(a))
    assert clipped > 10


def test_advantages_end_where_episodes_do_and_go_on_where_these_were_cut():
    agent = small(envs.make("CartPole-v1"))
    params = fresh(agent).params
    rng = np.random.default_rng(0)
    leaves, tree = jax.tree.flatten(params["critic"])
    params["critic"] = tree.unflatten(
        [jnp.asarray(rng.normal(size=p.shape), jnp.float32) for p in leaves]
    )
    observation, after = rng.normal(size=(2, 16, 8, 4))
    last = rng.uniform(size=(16, 8)) < 0.3
    terminated = last & (rng.uniform(size=last.shape) < 0.5)
    after[:-1] = np.where(last[:-1, :, None], after[:-1], observation[1:])
    steps = Transition(
        observation=jnp.asarray(observation, jnp.float32),
        action=jnp.asarray(rng.integers(2, size=last.shape)),
        reward=jnp.asarray(rng.normal(size=last.shape), jnp.float32),
        terminated=jnp.asarray(terminated),
        next_observation=jnp.asarray(after, jnp.float32),
    )
    moments, lesson = agent.lesson(params, Experience(steps, jnp.asarray(last)))
    value, next_value = (
        np.float64(agent.value(params, jnp.asarray(x, jnp.float32))) for x in (observation, after)
    )
    found = np.reshape(lesson.advantage, (16, 8))
    for b in range(8):
        advantage = 0.0
        for t in reversed(range(16)):
            goes_on = 0.9 * (not terminated[t, b])
            delta = steps.reward[t, b] + goes_on * next_value[t, b] - value[t, b]
            advantage = delta + (0.0 if last[t, b] else 0.9 * agent.lambda_ * advantage)
            np.testing.assert_allclose(found[t, b], advantage, rtol=1e-3, atol=1e-3)
    returns = moments["value"].denormalise(lesson.value)
    np.testing.assert_allclose(returns, found.ravel() + value.ravel(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose([lesson.value.mean(), lesson.value.std()], [0.0, 1.0], atol=1e-4)


def test_one_rollout_is_learnt_epochs_times_in_minibatches(monkeypatch):
    """Every step once in every epoch: then the gradients of equal minibatches add up."""
    env = envs.make("CartPole-v1")
    agent = small(env, epochs=3, minibatches=8)
    loss, seen = PPO.loss, []

    def watched(self, learnt, lesson):
        jax.debug.callback(seen.append, lesson.advantage, ordered=True)
        return loss(self, learnt, lesson)

    monkeypatch.setattr(PPO, "loss", watched)
    state, _ = jax.jit(agent.learn)(prepared(agent, env), jax.random.key(1))
    jax.effects_barrier()
    assert np.shape(seen) == (3 * 8, 16)
    epochs = np.reshape(seen, (3, 128))
    steps = np.unique(epochs)
    assert len(steps) == 128
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), steps)
    assert (epochs[0] != epochs[1]).any()
    counts = [leaf for leaf in jax.tree.leaves(state.optimiser) if leaf.dtype == jnp.int32]
    assert {int(count) for count in counts} == {24}
    assert agent.replayed_per_update == 3 * 16 * 8


def test_the_policy_improves_on_one_batch():
    """It comes to prefer what had the advantage, and no further than the clipping lets it."""
    env = envs.make("CartPole-v1")
    agent = small(env, learning_rate=1e-3)
    state = fresh(agent)
    observation = jnp.tile(jnp.eye(4), (8, 1))
    action = jnp.arange(32) // 4 % 2
    lesson = Lesson(
        observation=observation,
        action=action,
        log_prob=jnp.full(32, np.log(0.5)),
        advantage=jnp.where(action == 1, 1.0, -1.0),
        value=jnp.zeros(32),
    )

    def step(carry, _):
        learnt, optimiser = carry
        grads = jax.grad(agent.loss, has_aux=True)(learnt, lesson)[0]
        descent, optimiser = agent.optimiser.update(grads, optimiser, learnt)
        return (jax.tree.map(jnp.add, learnt, descent), optimiser), None

    learnt = {name: state.params[name] for name in ("actor", "critic")}
    (learnt, _), _ = jax.lax.scan(step, (learnt, state.optimiser), length=200)
    chance = agent.policy(learnt, jnp.eye(4)).prob(jnp.ones(4, jnp.int32))
    assert (chance > 0.59).all() and (chance < 0.75).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"minibatches": 3}, r"rollout · num_envs \(128\) must be a multiple of minibatches \(3\)"),
        ({"minibatches": 0}, "minibatches"),
        ({"epochs": 0}, "epochs is at least 1"),
        ({"layers": 0}, "layers is at least 1"),
        ({"clip_ratio": -1.0}, "clip_ratio is above 0"),
        ({"discount": 1.5}, "discount is a share"),
        ({"falling": 0.0}, "falling is above 0"),
    ],
)
def test_what_it_cannot_do_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        small(envs.make("CartPole-v1"), **fields)


def test_a_run_too_short_for_a_rollout_is_refused():
    with pytest.raises(UsageError, match="128 steps"):
        small(envs.make("CartPole-v1")).phases(127)
