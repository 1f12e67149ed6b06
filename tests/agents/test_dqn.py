from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dreamerzero import agents, envs, training
from dreamerzero.agents.dqn import Lesson, n_step
from dreamerzero.envs import probes
from dreamerzero.types import UsageError
from tests.agents.test_muzero import frames

SMALL = {
    "num_envs": 4,
    "batch_size": 32,
    "capacity": 4000,
    "prefill": 200,
    "layers": 1,
    "units": 16,
    "exploration": 1000.0,
    "slow_rate": 0.05,
    "learning_rate": 3e-3,
    "n_step": 2,
    "discount": 0.9,
}
RAINBOW = {
    "dueling": True,
    "atoms": 51,
    "priority": 0.5,
    "v_min": -2.0,
    "v_max": 12.0,
}


train = jax.jit(training.train, static_argnames="steps")


@jax.jit
def fresh(agent):
    """A state in which nothing was seen yet."""
    return agent.init(jax.random.key(0))


def small(env, **fields):
    return agents.make("dqn", env, "plain", **(SMALL | fields))


def noisy(params):
    """Networks that say something: untrained ones say zero."""
    leaves, tree = jax.tree.flatten(params)
    return tree.unflatten(
        [p + 0.3 * jnp.cos(7.0 * jnp.arange(p.size)).reshape(p.shape) for p in leaves]
    )


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("double", [False, True])
def test_targets_match_a_loop_over_steps(n, double):
    agent = small(envs.make("CartPole-v1"), n_step=n, double=double)
    params = fresh(agent).params
    q, slow = noisy(params["q"]), jax.tree.map(lambda leaf: 0.5 * leaf, noisy(params["slow"]))
    seen = frames(n + 1, 200, 2)
    lesson = n_step(seen, agent.discount)
    found = jax.jit(agent.target)(q, slow, lesson)

    chooser = np.asarray(agent.net.apply(q if double else slow, seen.observation)[..., 0])
    judge = np.asarray(agent.net.apply(slow, seen.observation)[..., 0], np.float64)
    reward, last, terminal = (np.asarray(x) for x in (seen.reward, seen.is_last, seen.is_terminal))
    assert set(map(int, last[1:].argmax(axis=0) * last[1:].any(axis=0))) >= {0, n - 1}
    for b in range(200):
        g, discount, t = 0.0, 1.0, 0
        while t < n and not (t and last[t, b]):
            t += 1
            g += discount * reward[t, b]
            discount *= agent.discount
        value = judge[t, b, np.argmax(chooser[t, b])]
        g += discount * value * (1 - terminal[t, b])
        np.testing.assert_allclose(found[b], g, rtol=1e-4, atol=1e-5)
        assert lesson.real[b] == (not last[0, b])


def test_a_target_of_atoms_is_shifted_shrunk_and_projected():
    """Its mean is that of the plain target as long as nothing falls beyond the outermost atoms."""
    agent = small(envs.make("CartPole-v1"), atoms=21, v_min=-30.0, v_max=30.0)
    q = noisy(fresh(agent).params["q"])
    lesson = n_step(frames(4, 50, 2), agent.discount)
    target = agent.target(q, q, lesson)
    best = agent.values(agent.net.apply(q, lesson.next_observation)).max(axis=-1)
    mean = lesson.reward + lesson.discount * best
    assert target.shape == (50, 21)
    np.testing.assert_allclose(target.sum(axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(target @ agent.bins, mean, rtol=1e-3, atol=1e-3)
    over = lesson.discount == 0.0  # all of it at the reward
    assert over.any() and (np.sum(target[over] > 1e-6, axis=-1) <= 2).all()


@pytest.mark.parametrize("parts", [{}, RAINBOW], ids=["plain", "rainbow"])
def test_the_loss_matches_a_float64_loop(parts):
    """The replay's weights count, and what is no step does not."""
    agent = small(envs.make("CartPole-v1"), **parts)
    params = fresh(agent).params
    q, slow = noisy(params["q"]), jax.tree.map(lambda leaf: 0.5 * leaf, noisy(params["slow"]))
    lesson = n_step(frames(3, 100, 2), agent.discount)
    weight = np.random.default_rng(0).uniform(0.1, 1.0, size=100)
    found, (errors, metrics) = jax.jit(agent.loss)(q, slow, lesson, jnp.float32(weight))

    outputs = np.float64(agent.net.apply(q, lesson.observation))
    target = np.float64(agent.target(q, slow, lesson))
    total = 0.0
    for b, action in enumerate(np.asarray(lesson.action)):
        if agent.atoms == 1:
            error = abs(outputs[b, action, 0] - target[b])
            loss = 0.5 * error**2
        else:
            p = special.softmax(outputs[b, action])
            error = loss = special.rel_entr(target[b], p).sum()
        real = bool(lesson.real[b])
        np.testing.assert_allclose(errors[b], error if real else 0.0, rtol=1e-4, atol=1e-5)
        total += weight[b] * loss if real else 0.0
    np.testing.assert_allclose([found, metrics["loss"]], total / 100, rtol=1e-4)
    assert 10 < lesson.real.sum() < 90


@pytest.mark.parametrize("parts", [{}, RAINBOW], ids=["plain", "rainbow"])
def test_one_batch_can_be_learnt_by_heart(parts):
    agent = small(envs.make("CartPole-v1"), **parts)
    state = fresh(agent)
    rng = np.random.default_rng(0)
    lesson = Lesson(
        observation=jnp.asarray(rng.normal(size=(16, 4)), jnp.float32),
        action=jnp.asarray(rng.integers(2, size=16)),
        reward=jnp.asarray(rng.uniform(0, 5, size=16), jnp.float32),
        discount=jnp.zeros(16),
        next_observation=jnp.zeros((16, 4)),
        real=jnp.ones(16),
    )

    def step(carry, _):
        q, optimiser = carry
        grads = jax.grad(agent.loss, has_aux=True)(q, q, lesson, jnp.ones(16))[0]
        descent, optimiser = agent.optimiser.update(grads, optimiser, q)
        return (jax.tree.map(jnp.add, q, descent), optimiser), None

    (q, _), _ = jax.lax.scan(step, (state.params["q"], state.optimiser), length=1500)
    value = agent.values(agent.net.apply(q, lesson.observation))[jnp.arange(16), lesson.action]
    np.testing.assert_allclose(value, lesson.reward, atol=0.1)


def test_dueling_advantages_do_not_move_the_mean():
    agent = small(envs.make("CartPole-v1"), dueling=True)
    params = noisy(fresh(agent).params["q"])
    observation = jax.random.normal(jax.random.key(1), (5, 4))
    value = agent.net.apply(params, observation)

    def raised(head):
        more = jax.tree.map(jnp.copy, params)
        more["params"][head]["Dense_1"]["Dense_0"]["bias"] += 3.0
        return agent.net.apply(more, observation)

    advantage_head, value_head = "MLP_1", "MLP_2"
    np.testing.assert_allclose(raised(advantage_head), value, atol=1e-5)
    np.testing.assert_allclose(raised(value_head), value + 3.0, atol=1e-5)


def test_the_slow_network_follows_and_plays():
    env = envs.make("CartPole-v1")
    agent = small(env, slow_rate=0.25)
    state = train(agent, env, jax.random.key(0), steps=240)[0].agent
    before = state.params["slow"]
    state, _ = jax.jit(agent.learn)(state, jax.random.key(1))
    expected = jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, state.params["q"], before)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), state.params["slow"], expected
    )

    _, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 64))
    slow = state.params | {"slow": noisy(before)}
    q = jnp.squeeze(
        agent.net.apply(slow["slow"], slow["observation"].normalise(timestep.observation))
    )
    action = agent.act(slow, jax.random.key(2), timestep, (), explore=False).action
    np.testing.assert_array_equal(action, q.argmax(axis=-1))


def test_exploration_falls_with_the_steps_taken():
    env = envs.make("CartPole-v1")
    agent = small(env, exploration=100.0, epsilon=0.1)
    params = fresh(agent).params  # its values are all zero: 0 is the greedy action
    _, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 4000))
    for steps, share in ((0, 1.0), (50, 0.55), (100, 0.1), (9999, 0.1)):
        now = params | {"steps": jnp.int32(steps)}
        action = agent.act(now, jax.random.key(2), timestep, (), explore=True).action
        np.testing.assert_allclose(action.mean(), share / 2, atol=0.03)


def test_what_was_surprising_comes_again_and_what_was_no_step_does_not():
    env = envs.make(probes.ActionProbe())  # every second frame is an episode's last
    for power in (0.0, 1.0):
        agent = small(env, priority=power)
        state = train(agent, env, jax.random.key(0), steps=400)[0].agent
        leaves = np.asarray(state.replay.tree)[state.replay.tree.size // 2 :]
        masses = np.unique(leaves[leaves > 0])
        assert (len(masses) == 1) == (power == 0.0)
    assert np.isclose(masses.min(), 1e-3)  # no error, and the least of all priorities


def test_a_replay_that_does_not_hold_what_is_collected_at_a_time_is_refused():
    agent = small(envs.make("CartPole-v1"), train_ratio=0.001)
    with pytest.raises(UsageError, match=r"With train_ratio 0.001 .* Raise either"):
        agent.phases(10_000_000)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("Pendulum-v1", {}, "discrete.*Try sac or ppo"),
        ("TicTacToe-pgx", {}, "illegal moves"),
        ("CartPole-v1", {"n_step": 0}, "n_step is at least 1"),
        ("CartPole-v1", {"atoms": 0}, "atoms is at least 1"),
        ("CartPole-v1", {"epsilon": 2.0}, "epsilon is a share"),
        ("CartPole-v1", {"falling": 0.0}, "falling is above 0"),
        ("CartPole-v1", {"v_min": 5.0, "v_max": 1.0}, r"v_min \(5.0\) must be under v_max \(1.0\)"),
        ("CartPole-v1", {"capacity": 16}, "capacity"),
    ],
)
def test_what_it_cannot_do_is_refused(name, fields, message):
    with pytest.raises(UsageError, match=message):
        small(envs.make(name), **fields)
