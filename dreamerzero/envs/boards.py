"""Board games of pgx (Koyama et al. 2023), an optional extra: one agent plays whoever is to move.

Rewards are those of the player who moved: 1 for a won game, 0 for a drawn one, and −1 for an
illegal move, which ends the game.
"""

from __future__ import annotations

import numpy as np
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from dreamerzero.types import UsageError

GAMES = {
    "TicTacToe-pgx": "tic_tac_toe",
    "ConnectFour-pgx": "connect_four",
    "Othello-pgx": "othello",
    "Go9x9-pgx": "go_9x9",
    "Hex-pgx": "hex",
    "AnimalShogi-pgx": "animal_shogi",
    "GardnerChess-pgx": "gardner_chess",
    "Chess-pgx": "chess",
    "2048-pgx": "2048",
}
"""Our ids, and pgx's. Of two players one moves after the other, and both see everything."""


class Board(Environment):
    """A game of pgx as a gymnax environment; its state is pgx's."""

    def __init__(self, name: str):
        try:
            import pgx
        except ImportError as error:
            raise UsageError(
                f"{name} needs pgx: pip install 'dreamerzero[boards]', or pip install pgx."
            ) from error
        self.game = pgx.make(GAMES[name])
        self.players = self.game.num_players
        self.symmetries = _symmetries(name, self.game)

    def reset_env(self, key, params):
        state = self.game.init(key)
        return state.observation, state

    def step_env(self, key, state, action, params):
        mover = state.current_player
        state = self.game.step(state, action, key)
        return state.observation, state, state.rewards[mover], state.terminated, {}

    def is_truncated(self, state, params):
        return state.truncated

    def legal_actions(self, state):
        return state.legal_action_mask

    @property
    def num_actions(self) -> int:
        return self.game.num_actions

    def action_space(self, params):
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, self.game.observation_shape, np.float32)


def _symmetries(name: str, game) -> tuple:
    """The sides from which a game looks the same, as in `EnvSpec`."""
    height, width = game.observation_shape[:2]
    cells = np.arange(height * width).reshape(height, width)
    if name == "ConnectFour-pgx":
        columns = range(width)
        return ((_flat(cells), tuple(columns)), (_flat(cells[:, ::-1]), tuple(reversed(columns))))
    turned = [np.rot90(cells, quarter) for quarter in range(4)]
    squares = [side for square in turned for side in (square, square.T)]
    if name == "2048-pgx":
        return tuple((_flat(side), _directions(side)) for side in squares)
    if name not in ("TicTacToe-pgx", "Othello-pgx", "Go9x9-pgx"):
        return ()
    sides = [_flat(side) for side in squares]
    rest = tuple(range(cells.size, game.num_actions))  # to pass, which looks the same everywhere
    return tuple((side, side + rest) for side in sides)


def _directions(side) -> tuple[int, ...]:
    """Which way left, up, right and down are on a board whose cells were `side [H, W]`."""
    ways = [(0, -1), (-1, 0), (0, 1), (1, 0)]
    origin = np.array(divmod(side[1, 1], len(side)))
    neighbours = [np.array(divmod(side[1 + i, 1 + j], len(side))) for i, j in ways]
    return tuple(ways.index(tuple(neighbour - origin)) for neighbour in neighbours)


def _flat(cells) -> tuple[int, ...]:
    return tuple(cells.ravel().tolist())
