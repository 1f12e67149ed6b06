"""How many environment steps does each agent need? All learning runs of a task in one picture.

Trains nothing: it reads what the `*_learning.py` left in `results/`. Agents have the settings that
were chosen for each there, and are evaluated at steps of their own, from which a bar can be up to
one evaluation too long.

    python benchmarks/sample_efficiency.py
"""

from __future__ import annotations

import json

import numpy as np
from common import RESULTS, report
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from dreamerzero.viz.curves import bootstrap_interval

SOURCES = ("yardstick", "ensemble", "dreamer", "muzero")
THRESHOLDS = {"CartPole-v1": 475.0, "Pendulum-v1": -200.0, "CartPoleSwingup-v0": 700.0}
# Parts of an agent, or the same one otherwise, belong to the tables of their own scripts.
LEFT_OUT = ("dqn-plain", "efficientzero-no-", "mbpo-k")


def main():
    curves = {}
    for source in SOURCES:
        curves |= json.loads((RESULTS / f"{source}_learning.json").read_text())["curves"]
    tasks = {env: by_agent(curves, env) for env in THRESHOLDS}
    rows = [
        row(env, agent, *curve) for env, agents in tasks.items() for agent, curve in agents.items()
    ]
    draw(tasks, rows)
    report("sample_efficiency", rows)


def by_agent(curves: dict, env: str) -> dict:
    """Of each agent that has learnt there: steps `[T]`, and returns of each seed `[K, T]`."""
    found = {}
    for task, evaluations in curves.items():
        agent = task.removesuffix(f"-{env}")
        if agent != task and not agent.startswith(LEFT_OUT):
            steps = np.array([evaluation["step"] for evaluation in evaluations])
            found[agent] = steps, np.array([evaluation["returns"] for evaluation in evaluations]).T
    return found


def row(env: str, agent: str, steps, returns) -> dict:
    reached = returns.min(axis=0) >= THRESHOLDS[env]
    return {
        "env": env,
        "agent": agent,
        "seeds": len(returns),
        "threshold": THRESHOLDS[env],
        "all seeds at": int(steps[reached.argmax()]) if reached.any() else None,
        "of": int(steps[-1]),
    }


def draw(tasks: dict, rows: list[dict]) -> None:
    figure = Figure(figsize=(12, 7), dpi=150, layout="constrained")
    for (env, agents), (above, below) in zip(tasks.items(), figure.subplots(2, len(tasks)).T):
        bars = [row for row in rows if row["env"] == env]
        for place, bar in enumerate(bars):
            colour = f"C{place}"  # the bar's name is the curve's
            steps, returns = agents[bar["agent"]]
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
        below.set(xscale="log", xlim=above.get_xlim(), xlabel=reached)
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
            axes.xaxis.set_minor_formatter(NullFormatter())
    figure.savefig(RESULTS / "sample_efficiency.png")


if __name__ == "__main__":
    main()
