from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dreamerzero import agents, envs
from dreamerzero.nn import distributions
from dreamerzero.types import Transition, UsageError

SMALL = {
    "num_envs": 4,
    "batch_size": 32,
    "train_ratio": 32.0,
    "capacity": 4000,
    "prefill": 200,
    "layers": 1,
    "units": 16,
    "discount": 0.9,
    "slow_rate": 0.05,
    "learning_rate": 3e-3,
    "temperature": 0.1,
}


@jax.jit
def fresh(agent):
    """A state in which nothing was seen yet."""
    return agent.init(jax.random.key(0))


def small(env, **fields):
    return agents.make("sac", env, "xs", **(SMALL | fields))


def transitions(number, spec, seed=0):
    """Random steps from anywhere."""
    rng = np.random.default_rng(seed)
    observation, after = rng.normal(size=(2, number, *spec.observation.shape))
    return Transition(
        observation=jnp.asarray(observation, jnp.float32),
        action=jnp.asarray(rng.uniform(-1, 1, (number, *spec.action.shape)), jnp.float32),
        reward=jnp.asarray(rng.normal(size=number), jnp.float32),
        terminated=jnp.asarray(rng.uniform(size=number) < 0.3),
        next_observation=jnp.asarray(after, jnp.float32),
    )


@pytest.fixture(scope="module")
def pendulum():
    return envs.make("Pendulum-v1")


def test_critics_learn_the_soft_target_of_the_lesser_one(pendulum):
    agent = small(pendulum)
    params = fresh(agent).params
    slow = jax.tree.map(lambda leaf: leaf + 0.1, params["critic"])
    batch = transitions(200, agent.spec)
    key = jax.random.key(1)
    found = jax.jit(agent.target)(params, slow, key, batch)

    # With the same key the same actions: their density comes from the normal's by the tanh's slope.
    mean, log_std = np.split(
        np.float64(agent.actor.apply(params["actor"], batch.next_observation)), 2, -1
    )
    action, _ = agent._draw(params["actor"], key, batch.next_observation)
    x = np.arctanh(np.float64(action))
    density = (
        np.exp(-0.5 * ((x - mean) / np.exp(log_std)) ** 2) / np.exp(log_std) / np.sqrt(2 * np.pi)
    )
    log_prob = np.log(density / (1 - np.float64(action) ** 2))[:, 0]
    twins = [
        agent.critic.apply(critic, batch.next_observation, action)
        for critic in (jax.tree.map(lambda leaf, j=j: leaf[j], slow) for j in range(2))
    ]
    assert np.abs(twins[0] - twins[1]).min() > 0
    value = np.minimum(*twins) - 0.1 * log_prob
    expected = batch.reward + 0.9 * np.where(batch.terminated, 0.0, value)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    burst = batch.replace(next_observation=jnp.full_like(batch.next_observation, jnp.nan))
    found = agent.target(params, slow, key, burst)
    np.testing.assert_allclose(found, np.where(batch.terminated, batch.reward, np.nan))


def test_each_loss_changes_its_own_part_alone(pendulum):
    agent = small(pendulum)
    state = fresh(agent)
    batch = transitions(64, agent.spec)
    learnt = {name: state.params[name] for name in ("actor", "critic", "temperature")}

    @jax.jit
    def gradients(learnt):
        """Of each loss with respect to every part."""

        def losses(learnt):
            return agent.loss(learnt, state.slow_critic, jax.random.key(1), batch)[1]

        return jax.jacrev(lambda learnt: {name: losses(learnt)[f"loss/{name}"] for name in learnt})(
            learnt
        )

    for name, parts in gradients(learnt).items():
        for part, grads in parts.items():
            moved = sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(grads))
            assert (moved > 0) == (part == name)


@pytest.mark.parametrize(("target", "rises"), [(-50.0, False), (50.0, True)])
def test_the_temperature_rises_while_entropy_is_missing(pendulum, target, rises):
    agent = small(pendulum, target_entropy=target)
    state = fresh(agent)
    before = state.params["temperature"]
    state, _ = jax.jit(agent.update)(state, jax.random.key(1), transitions(64, agent.spec))
    assert (state.params["temperature"] > before) == rises


def test_the_actor_climbs_the_lesser_critic(pendulum):
    """Its gradient is that of E[α log π − min Q], by finite differences with the noise fixed."""
    agent = small(pendulum)
    state = fresh(agent)
    batch = transitions(64, agent.spec)
    learnt = {name: state.params[name] for name in ("actor", "critic", "temperature")}

    @jax.jit
    def loss(actor):
        parts = learnt | {"actor": actor}
        return agent.loss(parts, state.slow_critic, jax.random.key(1), batch)[1]["loss/actor"]

    grads = jax.grad(loss)(learnt["actor"])
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)))
    shift = jax.tree.map(lambda g: 1e-2 * g / norm, grads)
    ahead, behind = (jax.tree.map(op, learnt["actor"], shift) for op in (jnp.add, jnp.subtract))
    np.testing.assert_allclose((loss(ahead) - loss(behind)) / 2e-2, norm, rtol=0.02)


def _update(agent, batch, state, key):
    return agent.update(state, key, batch)


def test_one_batch_can_be_learnt_by_heart(pendulum):
    """From any state that has the three things an update renews, a replay or not."""
    agent = small(pendulum, discount=0.0)
    state = fresh(agent).replace(replay=None)
    batch = transitions(16, agent.spec)
    keys = jax.random.split(jax.random.key(1), 1500)
    learn = jax.jit(lambda state, keys: jax.lax.scan(partial(_update, agent, batch), state, keys))
    state, _ = learn(state, keys)
    value = agent.values(state.params["critic"], batch.observation, batch.action)
    np.testing.assert_allclose(value, jnp.stack([batch.reward] * 2), atol=0.1)


def test_slow_critics_follow(pendulum):
    agent = small(pendulum, slow_rate=0.25)
    state = fresh(agent)
    before = state.slow_critic
    state, _ = jax.jit(agent.update)(state, jax.random.key(1), transitions(64, agent.spec))
    expected = jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, state.params["critic"], before)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), state.slow_critic, expected
    )


def test_it_begins_with_actions_everywhere_and_plays_the_middle(pendulum):
    agent = small(pendulum)
    params = fresh(agent).params
    _, timestep = jax.vmap(pendulum.reset)(jax.random.split(jax.random.key(1), 1000))
    act = partial(agent.act, params, timestep=timestep, memory=())
    explored = act(jax.random.key(2), explore=True).action
    assert explored.shape == (1000, 1) and np.abs(explored).max() <= 1.0
    np.testing.assert_allclose(np.histogram(explored, 4, (-1, 1))[0] / 1000, 0.25, atol=0.08)
    middle = act(jax.random.key(2), explore=False).action
    np.testing.assert_array_equal(middle, act(jax.random.key(3), explore=False).action)
    assert np.abs(middle).max() < 0.2


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("CartPole-v1", {}, "continuous.*Try dqn or ppo"),
        ("Pendulum-v1", {"capacity": 0}, "capacity"),
        ("Pendulum-v1", {"batch_size": 0}, "batch_size"),
        ("Pendulum-v1", {"units": 0}, "units is at least 1"),
        ("Pendulum-v1", {"temperature": -1.0}, "temperature is above 0"),
        ("Pendulum-v1", {"learning_rate": -1.0}, "learning_rate is 0 or more"),
    ],
)
def test_what_it_cannot_do_is_refused(name, fields, message):
    with pytest.raises(UsageError, match=message):
        small(envs.make(name), **fields)


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_a_squashed_normal_is_a_density(scale):
    """Its integral is 1, and its log-probability that of the normal less the tanh's slope."""
    outputs = jnp.array([0.3, np.log(scale)], jnp.float32)
    policy = distributions.squashed(outputs)
    action, log_prob = policy.sample_and_log_prob(seed=jax.random.key(0), sample_shape=2000)
    x = np.arctanh(np.clip(np.float64(action[:, 0]), -1 + 1e-6, 1 - 1e-6))
    inside = np.abs(x) < 4  # further out a float32 does not tell x
    expected = stats.norm.logpdf(x, 0.3, scale) - np.log1p(-(np.tanh(x) ** 2))
    np.testing.assert_allclose(log_prob[inside], expected[inside], rtol=1e-2, atol=1e-2)
    edges = np.tanh(np.linspace(-3.5, 3.5, 4001))
    middle = jnp.asarray((edges[1:] + edges[:-1]) / 2, jnp.float32)[:, None]
    mass = np.sum(np.exp(policy.log_prob(middle)) * np.diff(edges))
    np.testing.assert_allclose(mass, np.diff(stats.norm.cdf([-3.5, 3.5], 0.3, scale))[0], rtol=2e-3)
