"""Every variant of Dyna on the mazes of Sutton & Barto (2018, ch. 8), over 30 seeds.

    python benchmarks/dyna_learning.py

Each experiment is one compiled program over all seeds, run by environment steps: episodes differ in
length a hundredfold, and lanes that wait for the longest would mostly wait.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from common import RESULTS, arguments, report, timed
from matplotlib.figure import Figure

from dreamerzero import agents, envs
from dreamerzero.envs import mazes
from dreamerzero.training import program

SEEDS = 30
EPISODES = 50
BUDGET = {0: 16_000, 5: 9000, 50: 8000}  # env steps in which every seed ends its 50 episodes
LIMIT = 40_000  # env steps after which the search for a short path is given up
OPTIMAL = {1: 14, 2: 27, 3: 40}  # the shortest path by scale


def make(env, **fields):
    return agents.make("dyna", env, **fields)


def seeds(num=SEEDS):
    return jax.vmap(jax.random.key)(jnp.arange(num))


@partial(jax.jit, static_argnames="steps")
def runs(agent, env, keys, steps):
    """Whether an episode ended at each step, and how long it was: `[seeds, steps]` each."""
    metrics = jax.vmap(lambda key: program.train(agent, env, key, steps)[1]["train"])(keys)
    return metrics["episodes"], metrics["episode_length"]


@jax.jit
def convergence(agents_by_n, env, keys):
    return {n: runs(agent, env, keys, BUDGET[n]) for n, agent in agents_by_n.items()}


def episode_lengths(ended, length, episodes=EPISODES) -> np.ndarray:
    """The lengths of the first episodes of each seed, `[seeds, episodes]`."""
    rows = [row[end > 0][:episodes] for end, row in zip(*map(np.asarray, (ended, length)))]
    return np.stack(rows)  # fails if a seed has fewer


@partial(jax.jit, static_argnames=("optimal", "limit"))
def updates_to_near_optimal(agent, env, keys, optimal, limit):
    """Updates of Q until the greedy path is at most 1.2 times the shortest, and whether it ever is.

    A seed that has not found one after `limit` steps keeps what it has spent; `[seeds]` both.
    """
    (phase,) = agent.phases(limit)
    maze = env.environment
    direct = agent.sampling == "uniform"  # the real step's own update

    def near_optimal(q):
        def walk(_, s):
            return jnp.where(maze.goal[s], s, maze.successor[0, s, jnp.argmax(q[s])])

        return maze.goal[jax.lax.fori_loop(0, int(1.2 * optimal), walk, maze.start)]

    def running(carry):
        _, _, found, step = carry
        return (step < limit) & ~found.all()

    def advance(carry):
        state, updates, found, step = carry
        state, metrics = jax.vmap(partial(program.iteration, agent, env, phase))(state)
        updates += jnp.where(found, 0.0, metrics["backups"] + direct)
        return state, updates, found | jax.vmap(near_optimal)(state.agent.params), step + 1

    state = jax.vmap(partial(program.start, agent, env))(keys)
    zeros = jnp.zeros(keys.size)
    _, updates, found, _ = jax.lax.while_loop(running, advance, (state, zeros, zeros > 0, 0))
    return updates, found


def main():
    arguments()
    rows, panels = [], {}

    def note(experiment, variant, measure, values):
        row = {"experiment": experiment, "variant": variant, "measure": measure}
        statistics = {f.__name__: float(f(values)) for f in (np.mean, np.std, np.median)}
        rows.append(row | statistics)

    env = envs.make("DynaMaze-v0")
    by_n = {n: make(env, planning_steps=n) for n in BUDGET}
    first, warm = timed(lambda: convergence(by_n, env, seeds()), repeats=1)
    curves = {n: episode_lengths(*run) for n, run in convergence(by_n, env, seeds()).items()}
    for n, lengths in curves.items():
        for episode in (1, 2, 3, 4, 5, 6, 7, 8, 15, 20, 25, 30):
            note("convergence", f"n={n}", f"episode {episode}", lengths[:, episode - 1])
        note("convergence", f"n={n}", "last 10 of 50", lengths[:, -10:].mean(1))
    panels["convergence"] = {f"n = {n}": lengths.mean(0) for n, lengths in curves.items()}

    for name, n, kappa, steps, marks in (
        ("BlockingMaze-v0", 10, 1e-4, 3000, (1000, 2000, 3000)),
        ("ShortcutMaze-v0", 50, 1e-3, 6000, (3000, 6000)),
    ):
        env = envs.make(name)
        panels[name] = {}
        for variant, bonus in (("Dyna-Q", 0.0), ("Dyna-Q+", kappa)):
            agent = make(env, planning_steps=n, learning_rate=1.0, kappa=bonus)
            reward = np.cumsum(runs(agent, env, seeds(), steps)[0], axis=1)
            for mark in marks:
                note(name, variant, f"reward at {mark}", reward[:, mark - 1])
            panels[name][variant] = reward.mean(0)

    panels["updates"] = {"prioritised": {}, "uniform": {}}
    for scale, optimal in OPTIMAL.items():
        env = envs.wrap(mazes.DynaMaze(scale))
        for sampling, medians in panels["updates"].items():
            agent = make(env, sampling=sampling, planning_steps=5, learning_rate=0.5)
            updates, found = updates_to_near_optimal(agent, env, seeds(), optimal, LIMIT)
            note(f"{env.spec.observation.num} states", sampling, "updates", updates)
            note(f"{env.spec.observation.num} states", sampling, "found a short path", found)
            medians[env.spec.observation.num] = float(np.median(updates))

    report(
        "dyna_learning", rows, seeds=SEEDS, convergence_s={"warm": warm, "compile": first - warm}
    )
    print(f"{SEEDS} seeds × n ∈ {[*BUDGET]} × {EPISODES} episodes: {warm:.1f} s")
    figure(panels).savefig(RESULTS / "dyna_learning.png", dpi=110)


def figure(panels) -> Figure:
    """The four pictures of the chapter."""
    fig = Figure(figsize=(11, 7.5), layout="constrained")
    axes = fig.subplots(2, 2).flat
    for label, lengths in panels["convergence"].items():
        axes[0].plot(np.arange(2, lengths.size + 1), lengths[1:], label=label)
    axes[0].set(title="Dyna maze", xlabel="episode", ylabel="steps", yscale="log")
    for axis, name, change in (
        (axes[1], "BlockingMaze-v0", 1000),
        (axes[2], "ShortcutMaze-v0", 3000),
    ):
        for label, reward in panels[name].items():
            axis.plot(reward, label=label)
        axis.axvline(change, color="grey", linestyle=":")
        axis.set(title=name, xlabel="environment step", ylabel="cumulative reward")
    for label, updates in panels["updates"].items():
        axes[3].loglog([*updates], [*updates.values()], "o-", label=label)
    axes[3].set(
        title="Updates to a path ≤ 1.2 × shortest (median)", xlabel="states", ylabel="updates"
    )
    for axis in axes:
        axis.legend(frameon=False)
    return fig


if __name__ == "__main__":
    main()
