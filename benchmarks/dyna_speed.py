"""Environment steps per second of Dyna-Q on the Dyna maze, against a loop as a textbook writes it.

python benchmarks/dyna_speed.py
"""

from __future__ import annotations

import time

import jax
import numpy as np
from common import arguments, report, timed

from dreamerzero import agents, envs
from dreamerzero.training.program import train

STEPS = 3000
LANES = (1, 64)


def textbook(successor, goal, start, planning_steps, steps, seed=0):
    """Tabular Dyna-Q (Sutton & Barto 2018, p. 164) in numpy, with a dict for a model."""
    alpha, gamma, epsilon = 0.1, 0.95, 0.1
    rng = np.random.default_rng(seed)
    q = np.zeros((len(goal), 4))
    model, seen = {}, {}
    s = start
    for _ in range(steps):
        if rng.random() < epsilon:
            a = rng.integers(4)
        else:
            a = rng.choice(np.flatnonzero(q[s] == q[s].max()))
        s_next = successor[s, a]
        r = float(goal[s_next])
        q[s, a] += alpha * (r + gamma * np.max(q[s_next]) - q[s, a])
        if (s, a) not in model:
            seen.setdefault(s, []).append(a)
        model[s, a] = r, s_next
        states = list(seen)
        for _ in range(planning_steps):
            # Indexing with a random integer: `rng.choice` of a list costs several times as much.
            s_m = states[rng.integers(len(states))]
            a_m = seen[s_m][rng.integers(len(seen[s_m]))]
            r_m, s_next_m = model[s_m, a_m]
            q[s_m, a_m] += alpha * (r_m + gamma * np.max(q[s_next_m]) - q[s_m, a_m])
        s = start if goal[s_next] else s_next


def loop_rate(env, planning_steps) -> float:
    """Steps a second of the loop, the median of three."""
    maze = env.environment
    successor, goal = np.asarray(maze.successor[0]), np.asarray(maze.goal)
    steps = STEPS if planning_steps == 0 else STEPS // 3
    seconds = []
    for seed in range(3):
        begin = time.perf_counter()
        textbook(successor, goal, maze.start, planning_steps, steps, seed)
        seconds.append(time.perf_counter() - begin)
    return steps / float(np.median(seconds))


def main():
    arguments()
    env = envs.make("DynaMaze-v0")
    rows = []
    for planning_steps in (0, 10, 50):
        agent = agents.make("dyna", env, planning_steps=planning_steps)
        baseline = loop_rate(env, planning_steps)
        for lanes in LANES:
            keys = jax.random.split(jax.random.key(0), lanes)

            def run(agent, keys):
                state, metrics = jax.vmap(lambda key: train(agent, env, key, STEPS))(keys)
                return state.agent, metrics

            program = jax.jit(run if lanes > 1 else lambda a, k: train(a, env, k[0], STEPS))
            first, median = timed(lambda program=program, a=agent, k=keys: program(a, k))
            rate = lanes * STEPS / median
            rows.append(
                {
                    "planning_steps": planning_steps,
                    "lanes": lanes,
                    "env_steps_per_s": rate,
                    "numpy_steps_per_s": baseline,
                    "ratio": rate / baseline,
                    "compile_s": first - median,
                }
            )
    report("dyna_speed", rows, steps=STEPS)


if __name__ == "__main__":
    main()
