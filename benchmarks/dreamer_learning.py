"""Do PlaNet and the Dreamers learn? Three seeds on each task, with the preset for CPUs.

Runs are resumable and land in `runs/learning/`; repeat the command after an interruption. Writes
one JSON and one figure with all curves into `benchmarks/results/`.

    python benchmarks/dreamer_learning.py            # all tasks
    python benchmarks/dreamer_learning.py dreamer-Catch-bsuite planet-Pendulum-v1
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from common import RESULTS, report

from dreamerzero.training import metrics
from dreamerzero.viz import curves

TASKS = {  # agent, environment: steps, the return that counts as learnt
    ("dreamer", "CartPole-v1"): (30_000, 475.0),
    ("dreamer", "Pendulum-v1"): (15_000, -250.0),
    ("dreamer", "Catch-bsuite"): (24_000, 0.9),
    ("dreamer", "MemoryChain-bsuite"): (12_000, 0.9),
    ("dreamer-v1", "Pendulum-v1"): (15_000, -300.0),
    ("dreamer-v2", "Pendulum-v1"): (15_000, -300.0),
    ("dreamer-v2", "Catch-bsuite"): (24_000, 0.9),
    ("planet", "Pendulum-v1"): (10_000, -300.0),
}
NAMES = {f"{agent}-{env}": (agent, env) for agent, env in TASKS}
SEEDS = 3
RUNS = Path("runs/learning")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(NAMES)}; all if none is named")
    chosen = parser.parse_args().tasks or list(NAMES)
    if unknown := set(chosen) - set(NAMES):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    for name in chosen:
        train(name)
    begun = [name for name in NAMES if metrics.read(RUNS / name, "eval")]
    for name in begun:
        curves.plot([RUNS / name], RESULTS / f"{name}.png")
    report(
        "dreamer_learning",
        [row(name) for name in begun],
        curves={name: metrics.read(RUNS / name, "eval") for name in begun},
    )


def train(name: str) -> None:
    agent, env = NAMES[name]
    steps, _ = TASKS[agent, env]
    command = [sys.executable, "-m", "dreamerzero", "train", agent, "--env", env]
    options = {"steps": steps, "num-seeds": SEEDS, "eval-every": steps // 15}
    if agent == "planet":
        options["eval-every"] = steps // 5  # it plans in every one of their steps
    options["run-dir"] = RUNS / name
    command += [text for option, value in options.items() for text in (f"--{option}", str(value))]
    subprocess.run(command, check=True)


def row(name: str) -> dict:
    """When every seed had learnt, and what became of it; of a run under way, as far as it went."""
    agent, env = NAMES[name]
    steps, threshold = TASKS[agent, env]
    evaluations = metrics.read(RUNS / name, "eval")
    worst = {e["step"]: min(e["returns"]) for e in evaluations}
    learnt = next((step for step, value in worst.items() if value >= threshold), None)
    last = evaluations[-1]
    return {
        "agent": agent,
        "env": env,
        "seeds": len(last["returns"]),
        "threshold": threshold,
        "all seeds at": learnt,
        "worst seed since": min(v for s, v in worst.items() if s >= learnt) if learnt else None,
        "last": last["returns"],
        "steps": last["step"],
        "of": steps,
        "updates": last["updates"],
        "wall s": last["wall_s"],
    }


if __name__ == "__main__":
    main()
