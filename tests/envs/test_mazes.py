from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import envs
from dreamerzero.envs import mazes

UP, RIGHT, DOWN, LEFT = range(4)


def shortest(successor, start, goal):
    """Steps of the shortest path, by breadth-first search."""
    distance, queue = {start: 0}, deque([start])
    while queue:
        cell = queue.popleft()
        if goal[cell]:
            return distance[cell]
        for following in successor[cell]:
            if following not in distance:
                distance[following] = distance[cell] + 1
                queue.append(following)
    return None


@pytest.mark.parametrize(
    ("kind", "scale", "cells", "lengths"),
    [
        (mazes.DynaMaze, 1, 54, [14]),
        (mazes.DynaMaze, 2, 216, [27]),
        (mazes.DynaMaze, 3, 486, [40]),
        (mazes.BlockingMaze, 1, 54, [10, 16]),
        (mazes.ShortcutMaze, 1, 54, [16, 10]),
    ],
)
def test_shortest_paths(kind, scale, cells, lengths):
    maze = kind(scale)
    goal = np.asarray(maze.goal)
    assert goal.size == cells
    found = [shortest(plan.tolist(), maze.start, goal) for plan in np.asarray(maze.successor)]
    assert found == lengths


def test_dyna_maze_is_the_one_in_the_book():
    drawing = mazes.draw(mazes.DYNA)
    assert drawing.shape == (6, 9)
    assert drawing[2, 0] == "S" and drawing[0, 8] == "G"
    walls = {tuple(cell) for cell in np.argwhere(drawing == "#").tolist()}
    assert walls == {(1, 2), (2, 2), (3, 2), (0, 7), (1, 7), (2, 7), (4, 5)}


@pytest.mark.parametrize(("scale", "expected"), [(1, 868.725), (2, 3114.688)])
def test_first_passage_of_the_uniform_walk(scale, expected):
    """The expected length of an untrained agent's first episode, by a linear system."""
    maze = mazes.DynaMaze(scale)
    drawing = mazes.draw(mazes.DYNA, scale).ravel()
    free = np.flatnonzero((drawing != "#") & (drawing != "G"))
    walk = np.zeros((drawing.size, drawing.size))
    for move in np.asarray(maze.successor[0]).T:
        walk[np.arange(drawing.size), move] += 0.25
    steps = np.linalg.solve(np.eye(free.size) - walk[np.ix_(free, free)], np.ones(free.size))
    assert steps[free == maze.start].item() == pytest.approx(expected, abs=1e-3)


def test_walls_and_borders_stop_the_agent():
    successor = np.asarray(mazes.DynaMaze().successor[0]).reshape(6, 9, 4)
    cell = np.arange(54).reshape(6, 9)
    assert successor[0, 0, UP] == cell[0, 0]
    assert successor[0, 0, LEFT] == cell[0, 0]
    assert successor[5, 8, DOWN] == cell[5, 8]
    assert successor[2, 1, RIGHT] == cell[2, 1]  # the wall at (2, 2)
    assert successor[2, 0, RIGHT] == cell[2, 1]
    assert successor[2, 0, UP] == cell[1, 0]
    assert successor[3, 0, LEFT] == cell[3, 0]


def follow(env, state, actions):
    """Takes the actions; returns the last state and the stacked successors."""

    def step(state, action):
        state, timestep, successor = env.step(jax.random.key(0), state, action)
        return state, (timestep, successor)

    return jax.lax.scan(step, state, jnp.array(actions))


def test_the_goal_pays_once_and_starts_anew():
    env = envs.make("DynaMaze-v0")
    path = [DOWN, DOWN, RIGHT, RIGHT, RIGHT, UP, *[RIGHT] * 5, UP, UP, UP]
    state, first = env.reset(jax.random.key(0))
    assert first.observation == 18 and first.is_first
    state, (timestep, successor) = follow(env, state, path)
    assert len(path) == 14
    np.testing.assert_array_equal(successor.reward, [0.0] * 13 + [1.0])
    np.testing.assert_array_equal(successor.terminated, [False] * 13 + [True])
    assert not successor.truncated.any()
    assert successor.observation[-1] == 8
    assert timestep.observation[-1] == 18 and timestep.is_first[-1]
    assert state.time == 0


def test_the_change_comes_at_its_step_and_the_clock_outlives_episodes():
    """The short way is walked until it is blocked, across many episodes and their resets."""
    env = envs.make("BlockingMaze-v0")
    short = [*[RIGHT] * 5, UP, UP, UP, UP, UP]
    state, _ = env.reset(jax.random.key(0))
    state, (_, successor) = jax.jit(follow)(env, state, short * 100)
    assert state.clock == 1000
    assert successor.terminated.sum() == 100  # the thousandth step still passes
    state, (_, successor) = jax.jit(follow)(env, state, short * 10)
    assert not successor.terminated.any()  # stands before the wall for ever
    assert successor.observation[-1] == 4 * 9 + 8

    # One step less before it, and the change hits the last episode on its way.
    state, _ = env.reset(jax.random.key(0))
    state = state.replace(clock=jnp.int32(993))
    state, (_, successor) = follow(env, state, short)
    # Steps 993 … 1002: step 1000 of the environment's life is the eighth of these.
    np.testing.assert_array_equal(successor.observation[:7], [49, 50, 51, 52, 53, 44, 35])
    np.testing.assert_array_equal(
        successor.observation[7:], [26, 17, 8]
    )  # was in the gap: gets out


@pytest.mark.parametrize(("clock", "passes"), [(999, True), (1000, False)])
def test_the_gap_closes_between_steps_1000_and_1001(clock, passes):
    env = envs.make("BlockingMaze-v0")
    state, _ = env.reset(jax.random.key(0))
    state = state.replace(position=jnp.int32(44), clock=jnp.int32(clock))  # below the gap
    _, _, successor = env.step(jax.random.key(0), state, UP)
    assert (successor.observation == 35) == passes


def test_shortcut_opens_and_the_long_way_stays():
    _, both = np.asarray(mazes.ShortcutMaze().successor)
    assert both[44, UP] == 35 and both[36, UP] == 27


def test_parameters_are_leaves_and_truncation_is_not_termination():
    env = envs.make("ShortcutMaze-v0")
    env = env.replace(params=env.params.replace(change_at=0, max_steps_in_episode=3))
    state, _ = env.reset(jax.random.key(0))
    state = state.replace(position=jnp.int32(44))
    state, (timestep, successor) = follow(env, state, [UP, DOWN, DOWN])
    assert successor.observation[0] == 35  # open from the start
    np.testing.assert_array_equal(successor.truncated, [False, False, True])
    assert not successor.terminated.any()
    assert timestep.is_first[-1] and state.time == 0 and state.clock == 3
