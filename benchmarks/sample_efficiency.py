"""How many environment steps does each agent need? All learning runs of a task in one picture.

Trains nothing: it reads what the `*_learning.py` left in `results/`. Agents have the settings that
were chosen for each there, and are evaluated at steps of their own, from which a bar can be up to
one evaluation too long.

    python benchmarks/sample_efficiency.py
"""

from __future__ import annotations

import learning
import numpy as np
from common import RESULTS, arguments, report
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from dreamerzero.viz.curves import bootstrap_interval

SOURCES = ("yardstick", "ensemble", "dreamer", "muzero")
THRESHOLDS = {
    "CartPole-v1": 475.0,
    "Pendulum-v1": -200.0,
    "CartPoleSwingup-v0": 700.0,
    "Catch-bsuite": 0.95,
    "Breakout-MinAtar": 7.0,
    "HalfCheetah-v5": 1000.0,
}
# Parts of an agent, or the same one otherwise, belong to the tables of their own scripts.
LEFT_OUT = (
    "dqn-plain",
    "dqn-other",
    "efficientzero-no-",
    "muzero-siblings",
    "muzero-reanalyse",
    "mbpo-k",
)
COLUMNS = ("env", "agent", "seeds", "threshold", "all seeds at", "of")


def main():
    arguments()
    curves = {}
    for source in SOURCES:
        curves |= learning.recorded(f"{source}_learning", "curves")
    tasks = {env: by_agent(curves, env) for env in THRESHOLDS}
    rows = [
        row(env, agent, evaluations)
        for env, agents in tasks.items()
        for agent, evaluations in agents.items()
    ]
    draw(tasks, rows)
    report("sample_efficiency", rows)


def by_agent(curves: dict, env: str) -> dict:
    """The evaluations of each agent that has learnt there."""
    found = {}
    for task, evaluations in curves.items():
        agent = task.removesuffix(f"-{env}")
        if agent != task and not agent.startswith(LEFT_OUT):
            found[agent] = evaluations
    return found


def row(env: str, agent: str, evaluations: list[dict]) -> dict:
    task = learning.Task(agent, env, evaluations[-1]["step"], THRESHOLDS[env])
    found = learning.row(task, evaluations)
    return {column: found[column] for column in COLUMNS}


def draw(tasks: dict, rows: list[dict]) -> None:
    figure = Figure(figsize=(12, 14), dpi=150, layout="constrained")
    rows_of_axes = figure.subplots(4, 3)
    pairs = [*zip(*rows_of_axes[:2]), *zip(*rows_of_axes[2:])]
    for (env, agents), (above, below) in zip(tasks.items(), pairs):
        bars = [row for row in rows if row["env"] == env]
        for place, bar in enumerate(bars):
            colour = f"C{place}"  # the bar's name is the curve's
            evaluations = agents[bar["agent"]]
            steps = [evaluation["step"] for evaluation in evaluations]
            returns = np.array([evaluation["returns"] for evaluation in evaluations]).T
            above.plot(steps, returns.mean(axis=0), color=colour, marker=".")
            above.fill_between(steps, *bootstrap_interval(returns), color=colour, alpha=0.15, lw=0)
            if steps := bar["all seeds at"]:
                below.barh(place, steps, color=colour)
            else:
                below.plot(bar["of"], place, ">", color=colour)
        above.axhline(THRESHOLDS[env], color="grey", linestyle=":")
        above.set(title=env, xscale="log", ylabel="return (mean, 95% interval over seeds)")
        below.set_yticks(range(len(bars)), [bar["agent"] for bar in bars])
        below.invert_yaxis()
        reached = f"steps until all seeds reach {THRESHOLDS[env]:g}\n(▷ not by then)"
        below.set(xlim=(0, None), xlabel=reached)
        above.xaxis.set_minor_formatter(NullFormatter())
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / "sample_efficiency.png")


if __name__ == "__main__":
    main()
