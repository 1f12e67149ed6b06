"""Opponents, and what is counted against them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from scipy.optimize import minimize

from dreamerzero import agents, envs, training
from dreamerzero.training import games
from dreamerzero.types import ActorOutput, UsageError

TICTACTOE = "TicTacToe-pgx"


class Playing:
    """An agent that leaves its moves to an opponent's function."""

    def __init__(self, player):
        self.player = player

    def memory(self, batch_size):
        return ()

    def act(self, params, key, timestep, memory, *, explore):
        keys = jax.random.split(key, len(timestep.reward))
        action = jax.vmap(self.player, (None, 0, 0))(params, keys, timestep)
        return ActorOutput(action, memory)


jax.tree_util.register_static(Playing)


def match(env, player, against, count=64, seed=0):
    params = jnp.zeros(1)
    table = games.results(Playing(player), params, env, against, jax.random.key(seed), count)
    for counts in table.values():
        np.testing.assert_array_equal(counts.sum(axis=1), count)
    return {side: counts[0].tolist() for side, counts in table.items()}


def test_the_perfect_player_never_loses_and_draws_against_itself():
    env = envs.make(TICTACTOE)
    table = match(env, games.perfect, games.random_player, 200)
    assert table["first"][2] == table["second"][2] == 0
    assert table["first"][0] > 150
    assert match(env, games.perfect, games.perfect, 50) == {
        "first": [0, 50, 0],
        "second": [0, 50, 0],
    }
    # And the same seen from the other side: rewards are the agent's, not the last mover's.
    table = match(env, games.random_player, games.perfect, 200)
    assert table["first"][0] == table["second"][0] == 0
    assert table["second"][2] > 150


def test_who_moves_first_wins_more_often_among_random_players():
    """By enumeration: 58.5 % won, 12.7 % drawn and 28.8 % lost by who moves first."""
    table = match(envs.make(TICTACTOE), games.random_player, games.random_player, 4000)
    expected = np.array([0.585, 0.127, 0.288])
    np.testing.assert_allclose(np.array(table["first"]) / 4000, expected, atol=0.03)
    np.testing.assert_allclose(np.array(table["second"]) / 4000, expected[::-1], atol=0.03)


def test_a_search_in_the_rules_beats_chance():
    env = envs.make(TICTACTOE)
    table = match(env, games.searcher(env.environment), games.random_player, 64)
    assert table["first"][0] + table["second"][0] > 96  # 56 by chance
    assert table["first"][2] <= 4


class Nim(Environment):
    """Two players take one or two matches of ten in turn; who takes the last one wins."""

    players = 2

    def __init__(self, prize=1.0):
        self.prize = prize

    def reset_env(self, key, params):
        return self._seen(jnp.int32(10)), jnp.int32(10)

    def step_env(self, key, state, action, params):
        left = state - action - 1
        return self._seen(left), left, jnp.float32(self.prize * (left == 0)), left <= 0, {}

    def _seen(self, left):
        return jax.nn.one_hot(left, 11)

    def is_truncated(self, state, params):
        return False

    def legal_actions(self, state):
        return jnp.arange(2) < state

    def action_space(self, params):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (11,), np.float32)


def test_a_game_of_ones_own_has_opponents():
    """Who leaves a multiple of three wins."""

    def master(params, key, timestep):
        return jnp.where(timestep.state % 3 == 2, 1, 0)

    env = envs.make(Nim())
    assert match(env, master, games.random_player)["first"] == [64, 0, 0]
    assert match(env, master, master) == {"first": [64, 0, 0], "second": [0, 0, 64]}
    assert match(envs.make(Nim(10.0)), master, master)["first"] == [64, 0, 0]
    agent = agents.make("muzero", env, num_envs=4, capacity=4000, simulations=4)
    state, _ = training.train(agent, env, jax.random.key(0), steps=400)
    returns = training.evaluate(agent, state.agent.params, games.opposed(env), jax.random.key(1))
    assert set(np.unique(returns)) <= {-1.0, 1.0}
    with pytest.raises(UsageError, match="games of pgx"):
        games.opponent("search", env)


def test_half_of_a_games_evaluations_begin():
    env = envs.make(TICTACTOE)
    arena = games.opposed(env)
    _, first = jax.vmap(arena.reset)(jax.random.split(jax.random.key(0), 400))
    begins = np.asarray(first.legal).sum(axis=1) == 9
    assert 150 < begins.sum() < 250
    assert games.opposed(envs.make("CartPole-v1")) is envs.make("CartPole-v1")


def test_elo_is_the_likeliest():
    rng = np.random.default_rng(0)
    points = rng.integers(0, 20, size=(4, 4)) * (1.0 - np.eye(4))

    def unlikely(ratings):
        difference = ratings[:, None] - ratings
        weights = points + 0.5 * (1.0 - np.eye(4))
        return np.sum(weights * np.log1p(10.0 ** (-difference / 400.0)))

    oracle = minimize(unlikely, np.zeros(4), method="BFGS", options={"gtol": 1e-9}).x
    found = games.elo(points)
    np.testing.assert_allclose(found - found[0], oracle - oracle[0], atol=0.5)
    # Ten wins to one, each with the half point: 400 log10(10.5 / 1.5).
    pair = games.elo(np.array([[0.0, 10.0], [1.0, 0.0]]))
    np.testing.assert_allclose(pair[0] - pair[1], 400.0 * np.log10(10.5 / 1.5), atol=0.01)


def test_opponents_that_do_not_play_are_refused():
    with pytest.raises(UsageError, match="perfectly"):
        games.opponent("perfect", envs.make("ConnectFour-pgx"))
    with pytest.raises(UsageError, match="no game for two"):
        games.opponent("random", envs.make("CartPole-v1"))


def test_an_agent_of_ours_can_be_the_opponent():
    env = envs.make(TICTACTOE)
    agent = agents.make(
        "muzero", env, num_envs=4, capacity=4000, latent=8, layers=1, units=8, simulations=4
    )
    params = agent.init(jax.random.key(0)).params
    table = games.results(
        Playing(games.perfect),
        jnp.zeros(1),
        env,
        games.played_by(agent),
        jax.random.key(1),
        32,
        rival=params,
    )
    assert table["first"][0, 2] == table["second"][0, 2] == 0
    assert table["first"][0, 0] > 0


def test_greedy_players_have_one_game_for_each_opening():
    env = envs.make(TICTACTOE)
    agent = agents.make(
        "muzero", env, num_envs=4, capacity=4000, latent=8, layers=1, units=8, simulations=4
    )
    keys = jax.random.split(jax.random.key(1), 2)
    one, other = (agent.init(key).params for key in keys)
    player, rival = jax.tree.map(lambda leaf: leaf[None], one), games.played_by(agent)
    played = partial(games.results, agent, player, env, rival, keys[0], 64, other)
    assert all(counts.max() == 64 for counts in played().values())
    assert all(counts.max() < 64 for counts in played(games.OPENING).values())

    for side, stones in enumerate((2, 3)):
        arena = games.duel(env, rival, other, side, games.OPENING)
        _, timestep = jax.jit(jax.vmap(arena.reset))(jax.random.split(keys[1], 256))
        np.testing.assert_array_equal(timestep.observation.sum(axis=(1, 2, 3)), stones)
        places = timestep.observation.any(axis=-1).mean(axis=0)
        assert (places > 0.1).all()  # two of nine cells at random
