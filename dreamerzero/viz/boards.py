"""Board games for people: positions as text, moves as they are typed, and games as moving pictures.

Squares are a letter for the column and a number for the row, as on most boards: a1 is at the bottom
left. In Connect Four a number, 1 to 7, is the column that a stone falls into.
"""

from __future__ import annotations

import string
from pathlib import Path

import jax
import numpy as np

from dreamerzero.envs import Env
from dreamerzero.training.games import played_by, view
from dreamerzero.types import UsageError

PLAYABLE = ("TicTacToe-pgx", "ConnectFour-pgx", "Othello-pgx", "Go9x9-pgx")
STONES = ".XO"  # none, of who moves first, of the other


def require(env: Env) -> None:
    """Raises UsageError for what cannot be played in a terminal."""
    if env.name not in PLAYABLE:
        raise UsageError(f"{env.name} cannot be played here; these can: {', '.join(PLAYABLE)}.")


def play(
    agent, params, env: Env, key, *, person_begins: bool, ask=input, say=print
) -> float | None:
    """A game between a person, who has the X if she begins, and an agent.

    Args:
      params: what the agent acts with, of one run.
      ask: shows its argument and returns what was typed; `EOFError` ends the game.
    Returns:
      The person's result, −1, 0 or 1; None if she gave up.
    """
    start_key, key = jax.random.split(key)
    answer, move = _player(agent, params, env), jax.jit(env.environment.game.step)
    state, turn = env.reset(start_key)[0], 0
    say(f"{example(env)}; an empty line gives up.")
    while not (state.terminated | state.truncated):
        say("\n" + text(env, state.observation, turn))
        mover, persons = state.current_player, (turn % 2 == 0) == person_begins
        if persons:
            action = _ask(env, state, ask, say)
            if action is None:
                return None
        else:
            key, agent_key = jax.random.split(key)
            action = int(answer(agent_key, state))
            say(f"{STONES[1 + turn % 2]} plays {name(env, action)}")
        state, turn = move(state, action), turn + 1
    say("\n" + text(env, state.observation, turn))
    # Not only who moved last can have won, in games that count.
    result = float(state.rewards[mover]) * (1 if persons else -1)
    say({1: "You win.", 0: "A draw.", -1: "You lose."}[round(result)])
    return result


def _player(agent, params, env: Env):
    """(key, state of pgx) -> the agent's move."""
    player = played_by(agent)

    def move(key, state):
        return player(params, key, view(env.environment, state.observation, state))

    return jax.jit(move)


def _ask(env: Env, state, ask, say) -> int | None:
    """A legal move, asked for until there is one."""
    moves = {name(env, action): int(action) for action in np.flatnonzero(state.legal_action_mask)}
    while True:
        try:
            typed = ask("your move: ").strip().lower()
        except EOFError:
            return None
        if not typed:
            return None
        if typed in moves:
            return moves[typed]
        say(f"{typed!r} is no legal move. Legal: {' '.join(moves)}")


def name(env: Env, action: int) -> str:
    """What an action is called."""
    height, width = env.spec.observation.shape[:2]
    if env.name == "ConnectFour-pgx":
        return str(action + 1)
    if action == height * width:
        return "pass"
    return f"{string.ascii_lowercase[action % width]}{height - action // width}"


def example(env: Env) -> str:
    """A sentence about how moves are typed."""
    if env.name == "ConnectFour-pgx":
        return "Moves are columns, 1 to 7"
    passing = " or pass" if env.spec.action.num > 9 else ""
    return f"Moves are squares, such as a1 at the bottom left,{passing}".rstrip(",")


def text(env: Env, observation, turn: int) -> str:
    """A position as the observation `[H, W, C]` of the player to move shows it."""
    planes = np.asarray(observation)[..., :2]
    board = planes @ ((1, 2) if turn % 2 == 0 else (2, 1))
    height, width = board.shape
    stones = [" ".join(STONES[cell] for cell in row) for row in board]
    if env.name == "ConnectFour-pgx":
        return "\n".join([*stones, " ".join(str(1 + column) for column in range(width))])
    rows = [f"{height - row} {line}" for row, line in enumerate(stones)]
    return "\n".join([*rows, "  " + " ".join(string.ascii_lowercase[:width])])


def record(agent, params, env: Env, key, path: Path) -> float:
    """Plays a game of the agent against itself and writes it as an animated SVG.

    Returns:
      The reward of its last move.
    """
    from pgx import save_svg_animation

    start_key, key = jax.random.split(key)
    act, move = _player(agent, params, env), jax.jit(env.environment.game.step)
    state = env.reset(start_key)[0]
    states, mover = [state], state.current_player
    while not (state.terminated | state.truncated):
        key, act_key, move_key = jax.random.split(key, 3)
        mover = state.current_player
        state = move(state, act(act_key, state), move_key)
        states.append(state)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_svg_animation(states, path, frame_duration_seconds=0.6)
    return float(state.rewards[mover])
