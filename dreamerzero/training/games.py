"""How good a player is: games for two, against opponents that move inside the environment.

An opponent is a function (params, key, timestep) -> action, unbatched: the random player, a search
in the true rules, the perfect player of tic-tac-toe, or an agent of an earlier day.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.environment import Environment

from dreamerzero.envs import Env
from dreamerzero.envs.boards import Board
from dreamerzero.nn.distributions import anything
from dreamerzero.planning import puct_search
from dreamerzero.training import checkpoints, evaluation
from dreamerzero.types import Prediction, TimeStep, UsageError

SIMULATIONS = 64  # of the opponent that searches
OPPONENTS = ("random", "search", "perfect")
OPENING = 2  # moves at random that begin a game between players of whom neither plays at random
SIDES = ("first", "second")  # the agent moves, in a game
PAST = "past"  # the folder in a run's with the params of every evaluation

Opponent = Callable


class Duel(Environment):
    """A board for one player, whose opponent answers within the step.

    The parameters of this environment are the board's and the opponent's. `side` is 0 for an agent
    that moves first, 1 for one that moves second, None for either by chance. The first `opening`
    moves are at random, too few to end a game but by passing twice.
    """

    def __init__(
        self, board: Environment, opponent: Opponent, side: int | None = None, opening: int = 0
    ):
        self.board, self.opponent, self.side, self.opening = board, opponent, side, opening
        self.legal_actions = board.legal_actions

    def reset_env(self, key, params):
        start_key, side_key, move_key, *opening_keys = jax.random.split(key, 3 + self.opening)
        start = self.board.reset_env(start_key, params[0])
        for opening_key in opening_keys:
            start = self._moved(opening_key, random_player, *start, params)[:2]
        second = jax.random.bernoulli(side_key) if self.side is None else self.side == 1
        answered = self._moved(move_key, self.opponent, *start, params)[:2]
        return jax.tree.map(partial(jnp.where, second), answered, start)

    def step_env(self, key, state, action, params):
        move_key, answer_key = jax.random.split(key)
        moved = self.board.step_env(move_key, state, action, params[0])[:4]
        observation, after, reward, terminated = moved
        answered = self._moved(answer_key, self.opponent, observation, after, params)
        over = terminated | self.is_truncated(after, params)
        observation, state, lost, terminated = jax.tree.map(
            partial(jnp.where, over), moved, answered
        )
        return observation, state, reward - jnp.where(over, 0.0, lost), terminated, {}

    def is_truncated(self, state, params):
        return self.board.is_truncated(state, params[0])

    def _moved(self, key, player: Opponent, observation, state, params):
        """What a player's move leads to, with its reward for that and whether it ends there."""
        choice_key, move_key = jax.random.split(key)
        rules, rival = params
        action = player(rival, choice_key, view(self.board, observation, state))
        return self.board.step_env(move_key, state, action, rules)[:4]


def view(board: Environment, observation, state) -> TimeStep:
    """What a player knows of a position, unbatched."""
    no = jnp.zeros((), bool)
    legal = board.legal_actions(state)
    return TimeStep(observation, jnp.float32(0.0), no, no, no, legal=legal, state=state)


@functools.cache  # environments hash by identity: a second one would recompile
def _duel(board: Environment, opponent: Opponent, side: int | None, opening: int) -> Duel:
    return Duel(board, opponent, side, opening)


def duel(env: Env, opponent: Opponent, params=0, side: int | None = None, opening: int = 0) -> Env:
    """The game `env` against an opponent with its params, see `Duel`. A return above 0 is a win."""
    environment = _duel(env.environment, opponent, side, opening)
    return env.replace(environment=environment, params=(env.params, params))


def opposed(env: Env) -> Env:
    """Where evaluations take place: in a game for two, against a player who moves at random."""
    return duel(env, random_player) if env.spec.players == 2 else env


def random_player(params, key, timestep):
    """Any legal move."""
    return anything(key, timestep.legal)


@functools.cache
def searcher(board: Environment, simulations: int = SIMULATIONS) -> Opponent:
    """A search with the true rules that knows nothing: every move is as likely as any other, and a
    position is worth what one random game from there brought (Coulom 2006, Kocsis & Szepesvári
    2006)."""
    game = board.game

    def rollout(key, state):
        """What a random game brings to the player to move in `state`."""

        def go_on(carry):
            return ~(carry[1].terminated | carry[1].truncated)

        def move(carry):
            key, state = carry
            key, choice_key, move_key = jax.random.split(key, 3)
            return key, game.step(state, anything(choice_key, state.legal_action_mask), move_key)

        over = jax.lax.while_loop(go_on, move, (key, state))[1]
        return over.rewards[state.current_player]

    def evaluate(node):
        key, state = node
        return jnp.where(state.legal_action_mask, 0.0, -1e9), jax.vmap(rollout)(key, state)

    def step(key, action, node):
        key, rollout_key = jax.random.split(key)
        _, before = node
        size = len(action)
        state = jax.vmap(game.step)(before, action, jax.random.split(key, size))
        reward = jax.vmap(lambda state, player: state.rewards[player])(state, before.current_player)
        discount = jnp.where(state.terminated | state.truncated, 0.0, -1.0)
        return Prediction(reward, discount), (jax.random.split(rollout_key, size), state)

    def player(params, key, timestep):
        root_key, search_key = jax.random.split(key)
        root = jax.tree.map(lambda leaf: leaf[None], (root_key, timestep.state))
        found = puct_search(
            search_key,
            evaluate,
            step,
            root,
            simulations=simulations,
            noise=0.0,
            temperature=0.0,
            illegal=~timestep.legal[None],
        )
        return found.action[0]

    return player


def perfect(params, key, timestep):
    """Any of the best moves in tic-tac-toe."""
    own, other = (timestep.observation[..., plane].reshape(9) for plane in (0, 1))
    code = jnp.dot(own + 2 * other, 3 ** jnp.arange(9))
    return anything(key, jnp.array(_best_moves())[code])


@functools.cache
def _best_moves() -> np.ndarray:
    """`[3⁹, 9]` of the boards whose cells are 0 (empty), 1 (mine) and 2 (the other's) in base 3, by
    looking ahead to all ends (negamax)."""
    best = np.zeros((3**9, 9), bool)
    rows = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]

    @functools.cache
    def value(board) -> int:
        if any(all(board[cell] == 2 for cell in row) for row in rows):
            return -1
        free = [cell for cell in range(9) if not board[cell]]
        if not free:
            return 0
        swapped = tuple((0, 2, 1)[stone] for stone in board)
        values = [-value((*swapped[:cell], 2, *swapped[cell + 1 :])) for cell in free]
        code = sum(stone * 3**cell for cell, stone in enumerate(board))
        best[code, [cell for cell, v in zip(free, values) if v == max(values)]] = True
        return max(values)

    value((0,) * 9)
    return best


def played_by(agent) -> Opponent:
    """The agent, which plays greedily with the opponent's params."""

    def player(params, key, timestep):
        batch = jax.tree.map(lambda leaf: leaf[None], timestep)
        return agent.act(params, key, batch, agent.memory(1), explore=False).action[0]

    return player


def require(env: Env) -> None:
    """Raises UsageError if nobody can be the opponent."""
    if env.spec.players != 2:
        raise UsageError(f"{env.name} is no game for two: it has no opponents.")


def opponent(name: str, env: Env) -> Opponent:
    """The opponent of that name, one of `OPPONENTS`.

    Raises:
      UsageError: if it does not play this game.
    """
    require(env)
    if name == "perfect" and env.name != "TicTacToe-pgx":
        raise UsageError(f"Nobody knows how to play {env.name} perfectly; take random or search.")
    if name == "search" and not isinstance(env.environment, Board):
        raise UsageError(f"search plays the games of pgx, and {env.name} is none; take random.")
    known = {"random": random_player, "perfect": perfect}
    return searcher(env.environment) if name == "search" else known[name]


def results(
    agent, params, env: Env, against: Opponent, key, games: int, rival=0, opening: int = 0
) -> dict:
    """What K players win, draw and lose against an opponent.

    Args:
      params: of the players, leaves `[K, ...]`.
      games: of each player on each side.
      rival: the opponent's params.
      opening: moves at random before theirs: else two who play greedily play one game for ever.
    Returns:
      For each of `SIDES`, `[K, 3]` games won, drawn and lost by the players.
    """
    lanes = len(jax.tree.leaves(params)[0])
    table = {}
    for side, name in enumerate(SIDES):
        keys = jax.random.split(jax.random.fold_in(key, side), lanes)
        arena = duel(env, against, rival, side, opening)
        returns = evaluation.evaluate_lanes(agent, params, arena, keys, episodes=games)
        won = np.sign(returns)
        table[name] = np.stack([(won == score).sum(axis=1) for score in (1, 0, -1)], axis=1)
    return table


def scores(table: dict) -> np.ndarray:
    """The mean score `[K]` over both sides: 1 for a game won, 0 drawn, −1 lost."""
    counts = sum(table.values())
    return (counts[:, 0] - counts[:, 2]) / counts.sum(axis=1)


def keep(run_dir: Path, done: int, params, step: int) -> None:
    """Keeps the params of all lanes, to be an opponent of later ones."""
    checkpoints.save(run_dir / PAST, done, params, {"step": step}, keep=None)


def ladder(agent, run_dir: Path, shapes, env: Env, key, games: int) -> list[tuple[int, float]]:
    """How a run's first seed has become better: all that `keep` kept play each other, from
    positions to which two random moves lead.

    Args:
      shapes: of the params, leaves `[K, ...]`.
      games: of each player on each side, with every other as its opponent.
    Returns:
      (step, Elo rating) of each, from the first on, which has 0.
    """
    require(env)
    kept = checkpoints.every(run_dir / PAST)
    if len(kept) < 2:
        raise UsageError(
            f"{run_dir} has kept {len(kept)} players, and it takes two: one is kept at every "
            "evaluation."
        )
    players = [
        jax.tree.map(lambda leaf: leaf[0], checkpoints.restore(folder, shapes)) for folder in kept
    ]
    steps = [checkpoints.manifest(folder)["step"] for folder in kept]
    all_of_them = jax.tree.map(lambda *leaves: jnp.stack(leaves), *players)
    rival = played_by(agent)
    points = np.zeros((len(players), len(players)))
    for i, params in enumerate(players):
        key, rival_key = jax.random.split(key)
        table = results(agent, all_of_them, env, rival, rival_key, games, params, OPENING)
        won = (1.0 + scores(table)) / 2.0 * 2 * games
        points[:, i] += won
        points[i] += 2 * games - won
    np.fill_diagonal(points, 0.0)
    ratings = elo(points)
    return [(step, float(rating - ratings[0])) for step, rating in zip(steps, ratings)]


def elo(points) -> np.ndarray:
    """Elo ratings `[P]` that make the points `[P, P]`, of each player against each, likeliest.

    The Bradley–Terry model, P(i beats j) = 1 / (1 + 10^((R_j − R_i) / 400)), by Hunter's (2004)
    iteration. Every pair has one more draw, or a player that lost all would be infinitely bad.
    """
    points = points + 0.5 * (1.0 - np.eye(len(points)))
    strength = np.ones(len(points))
    for _ in range(1000):
        shares = (points + points.T) / (strength[:, None] + strength)
        strength = points.sum(axis=1) / shares.sum(axis=1)
        strength /= np.exp(np.log(strength).mean())
    return 400.0 * np.log10(strength)
