"""Board games: pgx's rules behind the house's face, whoever is to move."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import agents, envs
from dreamerzero.envs.boards import GAMES, Board
from dreamerzero.types import UsageError

SMALL = ["TicTacToe-pgx", "ConnectFour-pgx"]


def random_game(env, key, steps):
    """Legal moves by chance: what was seen, done and led to, `[steps, ...]`."""

    def step(carry, key):
        state, timestep = carry
        choice_key, step_key = jax.random.split(key)
        action = jax.random.categorical(choice_key, jnp.where(timestep.legal, 0.0, -jnp.inf))
        state, following, successor = env.step(step_key, state, action)
        return (state, following), (timestep, action, successor)

    return jax.lax.scan(step, env.reset(key), jax.random.split(key, steps))[1]


@pytest.mark.parametrize("name", SMALL)
def test_rewards_are_those_of_who_moved_and_games_end(name):
    env = envs.make(name)
    play = jax.jit(jax.vmap(partial(random_game, env, steps=60)))
    timestep, _, successor = play(jax.random.split(jax.random.key(0), 32))
    over = successor.terminated
    assert over.any()
    assert not successor.reward[~over].any()
    assert {*np.unique(successor.reward[over])} <= {0.0, 1.0}  # nobody loses by a move of hers
    np.testing.assert_array_equal(timestep.is_first[:, 1:], over[:, :-1])
    # One sees the own stones first: they are what the other saw second, one move before.
    before, after = timestep.observation[:, :-1], timestep.observation[:, 1:]
    same_game = ~over[:, :-1]
    assert not (before[..., 0] & ~after[..., 1])[same_game].any()  # no stone leaves the board
    np.testing.assert_array_equal(before[..., 1][same_game], after[..., 0][same_game])
    np.testing.assert_array_equal(
        after[..., 1][same_game].sum(axis=(1, 2)), before[..., 0][same_game].sum(axis=(1, 2)) + 1
    )


def test_an_illegal_move_loses():
    env = envs.make("TicTacToe-pgx")
    state, timestep = env.reset(jax.random.key(0))
    assert timestep.legal.all()
    step = jax.jit(env.step)
    state, timestep, _ = step(jax.random.key(1), state, 4)
    np.testing.assert_array_equal(timestep.legal, np.arange(9) != 4)
    _, _, successor = step(jax.random.key(2), state, 4)
    assert successor.terminated
    assert successor.reward == -1.0


@pytest.mark.parametrize(
    ("name", "sides"),
    [*zip(SMALL, (8, 2)), ("Go9x9-pgx", 8), ("Othello-pgx", 4)],  # which begins with four stones
)
def test_games_look_the_same_from_every_side(name, sides):
    """Whoever turns the board and calls the moves as they look there plays the same game."""
    env = envs.make(name)
    length = 5  # nothing ends before
    timestep, action, _ = jax.jit(partial(random_game, env, steps=length))(jax.random.key(3))
    move, empty = jax.jit(env.environment.game.step), env.reset(jax.random.key(0))[0]
    looks = set()
    for cells, order in env.spec.symmetries:

        def turned(observation, cells=cells):
            flat = np.asarray(observation).reshape(len(cells), -1)
            return flat[np.array(cells)].reshape(observation.shape)

        state = empty
        if not np.array_equal(turned(empty.observation), empty.observation):
            continue
        for t in range(length):
            np.testing.assert_array_equal(state.observation, turned(timestep.observation[t]))
            np.testing.assert_array_equal(
                state.legal_action_mask, timestep.legal[t][jnp.array(order)]
            )
            state = move(state, order.index(int(action[t])))
        looks.add(b"".join(turned(seen).tobytes() for seen in timestep.observation))
    assert len(looks) == sides


def test_2048_slides_the_same_from_every_side():
    """But for the new tile, which appears anywhere; a board that nobody turned is the first."""
    env = envs.make("2048-pgx")
    move = jax.jit(env.environment.game.step)
    board = jnp.array([[1, 1, 2, 3], [4, 2, 2, 5], [1, 6, 5, 5], [2, 6, 7, 1]])
    start = env.reset(jax.random.key(0))[0].replace(legal_action_mask=jnp.ones(4, bool))
    boards = []
    for cells, order in env.spec.symmetries:
        turned = board.ravel()[jnp.array(cells)]
        boards.append(tuple(turned.tolist()))
        for action in range(4):
            slid = move(start.replace(_board=board.ravel()), order[action], jax.random.key(1))
            other = move(start.replace(_board=turned), action, jax.random.key(1))
            assert slid.rewards == other.rewards
            expected = slid._board.ravel()[jnp.array(cells)]
            assert (expected != other._board.ravel()).sum() <= 2
    assert len(set(boards)) == 8


def test_a_missing_pgx_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pgx", None)
    with pytest.raises(UsageError, match=r"pip install 'dreamerzero\[boards\]'"):
        Board("TicTacToe-pgx")


def test_every_game_is_listed_and_can_be_made():
    assert set(GAMES) <= set(envs.names())
    spec = envs.make("2048-pgx").spec
    assert (spec.players, spec.masked, spec.action.num) == (1, True, 4)
    assert envs.make("Go9x9-pgx").spec.players == 2


@pytest.mark.parametrize("name", ["dreamer", "planet", "dyna"])
def test_agents_that_know_no_rules_are_refused(name):
    with pytest.raises(UsageError, match=r"illegal moves.*muzero"):
        agents.make(name, envs.make("TicTacToe-pgx"))


def test_agents_that_sample_actions_are_refused():
    with pytest.raises(UsageError, match="forbids moves"):
        agents.make("muzero-sampled", envs.make("TicTacToe-pgx"))
