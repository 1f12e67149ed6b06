"""The mazes on which Dyna was shown (Sutton & Barto 2018, ch. 8), as gymnax environments.

A maze is drawn as text: `#` wall, `S` start, `G` goal. The observation is the number of the cell in
row-major order, walls included; the actions are up, right, down, left. Walking into a wall or off
the board leaves the agent where it is. The goal pays 1 and ends the episode, all else pays 0.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

DYNA = """
.......#G
..#....#.
S.#....#.
..#......
.....#...
.........
"""
"""Example 8.1; the shortest path takes 14 steps."""

OPEN_RIGHT = """
........G
.........
.........
########.
.........
...S.....
"""
"""Figure 8.4 before its change: 10 steps."""

OPEN_LEFT = """
........G
.........
.........
.########
.........
...S.....
"""
"""Figure 8.4 after its change, and figure 8.5 before: 16 steps."""

OPEN_BOTH = """
........G
.........
.........
.#######.
.........
...S.....
"""
"""Figure 8.5 after its change: 10 steps."""

MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])


@struct.dataclass
class EnvState(environment.EnvState):
    position: jax.Array
    clock: jax.Array  # steps since the very first reset, over all episodes


@struct.dataclass
class EnvParams(environment.EnvParams):
    max_steps_in_episode: int = 10_000  # a uniform walk is longer 3 times in a million
    change_at: int = 0  # the step of the environment's life from which the second plan holds


class Maze(environment.Environment[EnvState, EnvParams]):
    """A maze that follows the first of its plans until `change_at`, and then the last.

    Args:
      scale: each cell of the plan becomes a block of `scale × scale`; every cell of the goal's
        block is a goal, and the start is the upper left cell of its block.
    """

    plans: tuple[str, ...]
    change_at = 0

    def __init__(self, scale: int = 1):
        self.scale = scale
        drawings = [draw(plan, scale) for plan in self.plans]
        self.shape = drawings[0].shape
        self.start = int(np.argmax(drawings[0].ravel() == "S"))
        self.goal = jnp.asarray(drawings[0].ravel() == "G")
        self.successor = jnp.asarray(np.stack([successors(drawing) for drawing in drawings]))

    @property
    def default_params(self) -> EnvParams:
        return EnvParams(10_000 * self.scale**2, self.change_at)

    @partial(jax.jit, static_argnames=("self",))
    def step(self, key, state, action, params=None):
        # The automatic reset makes a fresh state; the maze's clock must run on through it.
        observation, after, *rest = super().step(key, state, action, params)
        return observation, after.replace(clock=state.clock + 1), *rest

    def step_env(self, key, state, action, params):
        plan = jnp.where(state.clock >= params.change_at, len(self.plans) - 1, 0)
        position = self.successor[plan, state.position, action]
        state = EnvState(time=state.time + 1, position=position, clock=state.clock + 1)
        terminated = self.is_terminated(state, params)
        return position, state, terminated.astype(jnp.float32), terminated, {}

    def reset_env(self, key, params):
        zero, start = jnp.int32(0), jnp.int32(self.start)
        return start, EnvState(time=zero, position=start, clock=zero)

    def observe(self, key, state, action, params) -> jax.Array:
        return state.position

    def is_terminated(self, state, params) -> jax.Array:
        return self.goal[state.position]

    @property
    def name(self) -> str:
        return f"{type(self).__name__}-v0"

    @property
    def num_actions(self) -> int:
        return len(MOVES)

    def action_space(self, params: Any = None) -> spaces.Discrete:
        return spaces.Discrete(len(MOVES))

    def observation_space(self, params: Any = None) -> spaces.Discrete:
        return spaces.Discrete(self.goal.size)


class DynaMaze(Maze):
    """The Dyna maze (Sutton & Barto 2018, example 8.1): 54 cells, shortest path 14."""

    plans = (DYNA,)


class BlockingMaze(Maze):
    """The short way is walled off at step 1000 (figure 8.4): shortest path 10, then 16.

    The change comes once in the environment's life. A fresh environment, such as evaluation uses,
    shows the first plan; `change_at=0` in its parameters shows the second from the start.
    """

    plans = (OPEN_RIGHT, OPEN_LEFT)
    change_at = 1000


class ShortcutMaze(Maze):
    """A shorter way opens at step 3000 (figure 8.5): shortest path 16, then 10.

    The long way stays open, so only an agent that tries old ground again will find out.
    """

    plans = (OPEN_LEFT, OPEN_BOTH)
    change_at = 3000


def draw(plan: str, scale: int = 1) -> np.ndarray:
    """The plan as an array of characters, each repeated to a `scale × scale` block."""
    cells = np.array([list(row) for row in plan.split()])
    return cells.repeat(scale, axis=0).repeat(scale, axis=1)


def successors(drawing: np.ndarray) -> np.ndarray:
    """The cell that each move leads to, `[cells, moves]`."""
    shape = np.array(drawing.shape)
    here = np.stack(np.indices(shape), axis=-1).reshape(-1, 1, 2)
    there = here + MOVES
    inside = np.all((there >= 0) & (there < shape), axis=-1)
    there = np.where(inside[..., None], there, 0)
    free = inside & (drawing[there[..., 0], there[..., 1]] != "#")
    cells = np.where(free[..., None], there, here)
    return np.ravel_multi_index((cells[..., 0], cells[..., 1]), tuple(shape)).astype(np.int32)
