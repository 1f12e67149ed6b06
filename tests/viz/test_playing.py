"""Games in the terminal and as pictures."""

import jax
import numpy as np
import pytest

from dreamerzero import agents, envs
from dreamerzero.types import UsageError
from dreamerzero.viz import boards, video

FIELDS = {"num_envs": 4, "capacity": 4000, "latent": 8, "layers": 1, "units": 8, "td_steps": 9}


def player(env):
    agent = agents.make("alphazero", env, **FIELDS, simulations=60, discount=1.0)
    return agent, agent.init(jax.random.key(0)).params


def typing(*moves):
    moves = iter(moves)

    def ask(prompt):
        try:
            return next(moves)
        except StopIteration:
            raise EOFError from None

    return ask


def test_a_person_loses_against_a_search_and_sees_why():
    env, said = envs.make("TicTacToe-pgx"), []
    result = boards.play(
        *player(env),
        env,
        jax.random.key(0),
        person_begins=True,
        ask=typing("a1", "a1", "z9", "a2", "c1", "b3", "c2", "c3", "b1", "b2", "a3"),
        say=said.append,
    )
    text = "\n".join(said)
    assert "'z9' is no legal move. Legal: " in text
    assert "O plays" in text
    assert (result, said[-1]) in {(-1.0, "You lose."), (0.0, "A draw.")}
    assert "1 X" in text  # a1, at the bottom left


def test_a_person_can_win_and_give_up():
    env = envs.make("ConnectFour-pgx")
    agent, params = player(env)

    def play(*moves, begins):
        said = []
        result = boards.play(
            agent.replace(simulations=1),
            params,
            env,
            jax.random.key(0),
            person_begins=begins,
            ask=typing(*moves),
            say=said.append,
        )
        return result, said

    result, said = play(*"4444333322221111", begins=True)
    assert (result, said[-1]) in {(1.0, "You win."), (-1.0, "You lose.")}
    result, said = play("", begins=False)
    assert result is None
    assert said[1].startswith("\n. .")
    assert play(begins=True)[0] is None  # the end of the input


def test_moves_are_called_what_people_call_them():
    square, columns, go = (envs.make(f"{n}-pgx") for n in ("TicTacToe", "ConnectFour", "Go9x9"))
    assert [boards.name(square, a) for a in (0, 2, 6, 8)] == ["a3", "c3", "a1", "c1"]
    assert [boards.name(columns, a) for a in (0, 6)] == ["1", "7"]
    assert boards.name(go, 81) == "pass"
    with pytest.raises(UsageError, match="cannot be played here"):
        boards.require(envs.make("CartPole-v1"))


def test_both_players_keep_their_letter():
    env = envs.make("TicTacToe-pgx")
    state = env.reset(jax.random.key(0))[0]
    shown = []
    for turn, move in enumerate((4, 0, 8)):
        shown.append(boards.text(env, state.observation, turn))
        state = env.environment.game.step(state, move)
    shown.append(boards.text(env, state.observation, 3))
    assert shown[0] == "3 . . .\n2 . . .\n1 . . .\n  a b c"
    assert shown[3] == "3 O . .\n2 . X .\n1 . . X\n  a b c"
    np.testing.assert_array_equal([text.count("X") for text in shown], [0, 1, 1, 2])


def test_a_game_becomes_a_moving_picture(tmp_path):
    env = envs.make("TicTacToe-pgx")
    agent, params = player(env)
    path = tmp_path / "game.svg"
    assert video.record(agent, params, env, jax.random.key(0), path) in (0.0, 1.0)
    text = path.read_text()
    assert text.count('class="frame"') >= 6
    with pytest.raises(UsageError, match=r"SVGs, so end its name in \.svg"):
        video.record(agent, params, env, jax.random.key(0), tmp_path / "game.gif")
