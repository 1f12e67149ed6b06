import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import agents, envs, training
from dreamerzero.agents.muzero import Lesson
from dreamerzero.envs import probes
from dreamerzero.replay import windows
from dreamerzero.replay.sequence import Frame
from dreamerzero.types import Prediction, UsageError
from dreamerzero.worlds.value_equivalent import ValueEquivalent

SMALL = {
    "num_envs": 4,
    "batch_size": 32,
    "unroll": 3,
    "td_steps": 4,
    "capacity": 4000,
    "simulations": 4,
    "latent": 8,
    "layers": 1,
    "units": 16,
    "support": 6,
    "discount": 0.9,
}


def small(env, **fields):
    return agents.make("muzero", env, **(SMALL | fields))


def frames(length, batch, num_actions, seed=0):
    """Random streams in which episodes begin, end and are cut off."""
    rng = np.random.default_rng(seed)
    last = rng.uniform(size=(length, batch)) < 0.25
    terminal = last & (rng.uniform(size=last.shape) < 0.6)
    policy = rng.uniform(size=(length, batch, num_actions))
    return Frame(
        observation=jnp.asarray(rng.normal(size=(length, batch, 4)), jnp.float32),
        action=jnp.asarray(rng.integers(num_actions, size=last.shape)),
        reward=jnp.asarray(rng.normal(size=last.shape), jnp.float32),
        is_first=jnp.asarray(np.roll(last, 1, axis=0)),
        is_last=jnp.asarray(last),
        is_terminal=jnp.asarray(terminal),
        context=Lesson(jnp.asarray(policy / policy.sum(axis=-1, keepdims=True), jnp.float32)),
    )


@pytest.mark.parametrize(("seed", "players"), [(0, 1), (1, 1), (2, 1), (3, 2)])
def test_targets_match_a_loop_over_episodes(seed, players):
    """Of two players each wants what the other does not."""
    agent = small(envs.make("CartPole-v1"))
    agent = agent.replace(spec=dataclasses.replace(agent.spec, players=players))
    sign = 3 - 2 * players
    state = agent.init(jax.random.key(seed))
    # Values of an untrained world are all zero: let them be anything else.
    noise = partial(jax.random.normal, jax.random.key(1))
    slow = jax.tree.map(lambda leaf: leaf + 0.5 * noise(leaf.shape), state.params["slow"])
    state = state.replace(params=state.params | {"slow": slow})
    seen = frames(agent.batch_length, 64, 2, seed)
    found = agent.targets(state, seen, jax.random.key(2))
    values = agent.world.evaluate(slow, agent.world.represent(slow, seen.observation))[1]

    reward, last, terminal, values = (
        np.asarray(x, np.float64) for x in (seen.reward, seen.is_last, seen.is_terminal, values)
    )
    for b in range(64):
        over = False
        for k in range(agent.unroll + 1):
            over |= bool(last[k, b])
            assert found.decided[k, b] == (not over)
            if over:
                continue
            g, discount, t = 0.0, 1.0, k
            for _ in range(agent.td_steps):
                t += 1
                g += discount * reward[t, b]
                discount *= sign * agent.discount
                if last[t, b]:
                    break
            g += discount * values[t, b] * (1 - terminal[t, b])
            np.testing.assert_allclose(found.value[k, b], g, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(found.policy[k, b], seen.context.policy[k, b])
        for k in range(agent.unroll):
            assert found.stepped[k, b] == (not last[: k + 1, b].any())
            assert found.going_on[k, b] == (not terminal[k + 1, b])
            assert found.reward[k, b] == seen.reward[k + 1, b]
            assert found.action[k, b] == seen.action[k, b]
    np.testing.assert_array_equal(found.observation, seen.observation[0])


def test_only_the_asked_share_is_searched_anew():
    env = envs.make("CartPole-v1")
    seen = frames(8, 32, 2)
    for share, fresh in ((0.0, 0), (0.25, 8), (1.0, 32)):
        agent = small(env, reanalysed=share)
        state = agent.init(jax.random.key(0))
        policy = agent.targets(state, seen, jax.random.key(1)).policy
        stored = np.isclose(policy, seen.context.policy[: agent.unroll + 1]).all(axis=(0, 2))
        np.testing.assert_array_equal(stored, np.arange(32) >= fresh)
        np.testing.assert_allclose(policy.sum(axis=-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("search", ["gumbel", "puct"])
def test_exploring_differs_and_greedy_is_the_same_whatever_the_key(search):
    env = envs.make("CartPole-v1")
    agent = small(env, search=search)
    params = agent.init(jax.random.key(0)).params
    _, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 64))

    def act(seed, explore):
        key = jax.random.key(seed)
        return agent.act(params, key, timestep, agent.memory(64), explore=explore)

    assert set(np.unique(act(2, True).action)) == {0, 1}
    np.testing.assert_array_equal(act(2, False).extras.policy.shape, (64, 2))
    if search == "gumbel":  # PUCT breaks ties by chance
        np.testing.assert_array_equal(act(2, False).action, act(3, False).action)


@pytest.mark.parametrize("search", ["gumbel", "puct"])
def test_a_search_finds_what_its_world_rewards(search, monkeypatch):
    """A world that pays for the second action alone, and a policy that knows nothing of it."""
    monkeypatch.setattr(
        ValueEquivalent,
        "step",
        lambda self, params, key, action, latent: (
            Prediction(jnp.float32(action), jnp.full(action.shape, 0.9)),
            latent,
        ),
    )
    env = envs.make("CartPole-v1")
    agent = small(env, search=search, simulations=16)
    params = agent.init(jax.random.key(0)).params
    _, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 16))
    act = partial(agent.act, params, timestep=timestep, memory=(), explore=False)
    assert (act(jax.random.key(2)).action == 1).all()


@pytest.mark.parametrize("search", ["gumbel", "puct"])
def test_behaviour_comes_to_the_optimum(search):
    env = envs.make(probes.ActionProbe())
    agent = small(env, search=search, train_ratio=64.0)
    state, _ = training.train(agent, env, jax.random.key(0), steps=1500)
    returns = training.evaluate(agent, state.agent.params, env, jax.random.key(1), episodes=64)
    assert returns.mean() == 1.0


def test_sampled_actions_come_to_the_optimum():
    env = envs.make(probes.ContinuousActionProbe())
    fields = SMALL | {"samples": 8, "considered": 8, "simulations": 8, "train_ratio": 64.0}
    agent = agents.make("muzero-sampled", env, **fields)
    state, _ = training.train(agent, env, jax.random.key(0), steps=3000)
    returns = training.evaluate(agent, state.agent.params, env, jax.random.key(1), episodes=64)
    assert returns.mean() >= 0.95  # 0.75 without seeing where the target is


def test_sampled_lessons_are_over_the_actions_that_were_drawn():
    """The policy's loss is −Σ w log π(a), and the replay keeps w and a."""
    env = envs.make("Pendulum-v1")
    agent = agents.make("muzero-sampled", env, **SMALL, samples=6)
    state = training.train(agent, env, jax.random.key(0), steps=200)[0].agent
    lesson = state.replay.streams.frames.context
    assert lesson.policy.shape[2:] == (6,)
    assert lesson.actions.shape[2:] == (6, 1)
    params = state.params
    _, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 5))
    output = agent.act(params, jax.random.key(2), timestep, (), explore=True)
    drawn = output.extras.actions[..., 0]
    assert (drawn == output.action).any(axis=1).all()  # it does one of them
    assert len(np.unique(drawn)) == drawn.size


@pytest.mark.parametrize(
    "probe", [probes.DelayedProbe(), probes.TruncationProbe(), probes.BothEndsProbe()]
)
def test_values_are_the_optimal_ones(probe):
    """Delayed: the discount and the bootstrap. Truncation: V = 1 / (1 − γ) although episodes are
    cut off after ten steps. Both ends: an end on the limit is an end."""
    env = envs.make(probe)
    agent = small(env, train_ratio=64.0)
    state, _ = training.train(agent, env, jax.random.key(0), steps=6000)
    params = state.agent.params
    symbols = params["observation"].normalise(jnp.eye(probe.num_symbols))
    _, value = agent.world.evaluate(params["slow"], agent.world.represent(params["slow"], symbols))
    np.testing.assert_allclose(value, probe.values(agent.discount), rtol=0.1, atol=0.05)


def test_the_slow_world_follows_and_plays():
    env = envs.make("CartPole-v1")
    agent = small(env, slow_rate=0.25)
    state = training.train(agent, env, jax.random.key(0), steps=64)[0].agent
    before = state.params["slow"]
    state, _ = jax.jit(agent.learn)(state, jax.random.key(1))
    expected = jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, state.params["world"], before)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), state.params["slow"], expected)

    other = state.params | {"slow": jax.tree.map(jnp.zeros_like, before)}
    _, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 4))
    for explore in (True, False):
        policies = [
            agent.act(params, jax.random.key(2), timestep, (), explore=explore).extras.policy
            for params in (state.params, other)
        ]
        assert np.array_equal(*policies) == explore


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("Pendulum-v1", {}, "discrete.*Try muzero-sampled"),
        ("CartPole-v1", {"search": "best"}, "search is one of gumbel, puct"),
        ("CartPole-v1", {"reanalysed": 1.5}, "from 0 to 1"),
        ("CartPole-v1", {"capacity": 32}, "capacity"),
        ("CartPole-v1", {"simulations": 0}, "simulations"),
        ("CartPole-v1", {"num_envs": 0}, "num_envs is at least 1"),
        ("CartPole-v1", {"train_ratio": 0.0}, "train_ratio is above 0"),
        ("CartPole-v1", {"layers": -1}, "layers is not negative"),
        ("CartPole-v1", {"units": 0}, "units is at least 1"),
        ("CartPole-v1", {"openings": 2.0}, "openings is a share"),
        ("CartPole-v1", {"cooling": 0.0}, "cooling is above 0"),
        ("CartPole-v1", {"priority": -1.0}, "priority is 0 or more"),
        ("CartPole-v1", {"reanalysed": 0.001}, "less than a window"),
        ("CartPole-v1", {"correction": -1.0}, "correction is 0 or more"),
        ("CartPole-v1", {"encoder": "lines"}, "lines reads grids.*Leave encoder at conv"),
        ("CartPole-pixels", {"encoder": "lines"}, "smaller than pictures"),
        ("CartPole-pixels", {"reconstruction": 1.0}, "smaller than pictures.*Leave reconstruction"),
    ],
)
def test_what_it_cannot_do_is_refused(name, fields, message):
    with pytest.raises(UsageError, match=message):
        small(envs.make(name), **fields)


def test_windows_whose_value_was_wrong_come_again():
    """Priorities are the errors of the values, to the power that is asked for."""
    env = envs.make("CartPole-v1")
    for power in (0.0, 0.5):
        agent = small(env, priority=power)
        state = training.train(agent, env, jax.random.key(0), steps=64)[0].agent
        for key in jax.random.split(jax.random.key(1), 5):
            state, _ = jax.jit(agent.learn)(state, key)
        leaves = np.asarray(state.replay.tree)[state.replay.tree.size // 2 :]
        masses = np.unique(leaves[leaves > 0])
        assert (len(masses) == 1) == (power == 0.0)


def test_games_begin_with_any_moves_that_teach_nothing():
    env = envs.make("TicTacToe-pgx")
    _, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 400))
    legal = jnp.tile(jnp.arange(9) > 1, (400, 1))

    def acted(openings, is_first=True, opening=True, explore=True):
        agent = small(env, openings=openings)
        params = agent.init(jax.random.key(0)).params
        now = timestep.replace(is_first=jnp.full(400, is_first), legal=legal)
        act = jax.jit(partial(agent.act, params, timestep=now, explore=explore))
        return jax.tree.map(np.asarray, act(jax.random.key(1), memory=jnp.full(400, opening)))

    searched, opened = acted(0.0), acted(1.0)
    assert {*opened.action.tolist()} == {*range(2, 9)}
    assert np.bincount(opened.action, minlength=9)[2:].min() > 25  # 57 on average
    assert opened.memory.all() and not searched.memory.any()
    half = acted(0.5)
    share = (half.action != searched.action).mean()
    assert 0.3 < share < 0.5  # half of them, but for those that are the same by chance
    np.testing.assert_array_equal(half.extras.policy.any(axis=1), ~half.memory)
    np.testing.assert_array_equal(
        half.extras.policy[~half.memory], searched.extras.policy[~half.memory]
    )
    # An opening goes on, but does not begin again.
    np.testing.assert_array_equal(acted(1.0, is_first=False).action, opened.action)
    later = acted(1.0, is_first=False, opening=False)
    np.testing.assert_array_equal(later.action, searched.action)
    assert len({*acted(1.0, explore=False).action.tolist()}) == 1


def test_positions_of_the_opening_have_no_targets():
    env = envs.make("TicTacToe-pgx")
    agent = small(env, openings=0.75)
    state = training.train(agent, env, jax.random.key(0), steps=400)[0].agent
    frames = windows.sample(state.replay, jax.random.key(1), 64, 1.0).frames
    decided = agent.targets(state, frames, jax.random.key(2)).decided
    taught = np.asarray(frames.context.policy[: agent.unroll + 1]).any(axis=-1)
    assert 0.1 < taught.mean() < 0.9
    assert not decided[~taught].any()
    first = np.cumprod(~np.asarray(frames.is_last[: agent.unroll + 1]), axis=0) > 0
    np.testing.assert_array_equal(decided, first & taught)
