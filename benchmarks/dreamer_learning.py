"""Does Dreamer learn? Three seeds on each task, with the preset for CPUs.

Runs are resumable and land in `runs/learning/`; repeat the command after an interruption. Writes
one JSON and one figure with all curves into `benchmarks/results/`.

    python benchmarks/dreamer_learning.py            # all tasks
    python benchmarks/dreamer_learning.py Catch-bsuite
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from common import RESULTS, report

from dreamerzero.training import metrics
from dreamerzero.viz import curves

TASKS = {  # environment: steps, the return that counts as learnt
    "CartPole-v1": (30_000, 475.0),
    "Pendulum-v1": (15_000, -250.0),
    "Catch-bsuite": (24_000, 0.9),
    "MemoryChain-bsuite": (12_000, 0.9),
}
SEEDS = 3
RUNS = Path("runs/learning")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}; all if none is named")
    chosen = parser.parse_args().tasks or list(TASKS)
    if unknown := set(chosen) - set(TASKS):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(TASKS)}")
    for task in chosen:
        train(task)
    begun = [task for task in TASKS if metrics.read(RUNS / task, "eval")]
    for task in begun:
        curves.plot([RUNS / task], RESULTS / f"dreamer_{task}.png")
    report(
        "dreamer_learning",
        [row(task) for task in begun],
        curves={task: metrics.read(RUNS / task, "eval") for task in begun},
    )


def train(task: str) -> None:
    steps, _ = TASKS[task]
    command = [sys.executable, "-m", "dreamerzero", "train", "dreamer", "--env", task]
    options = {"steps": steps, "num-seeds": SEEDS, "eval-every": steps // 15}
    options["run-dir"] = RUNS / task
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    subprocess.run(command, check=True)


def row(task: str) -> dict:
    """When every seed had learnt, and what became of it; of a run under way, as far as it went."""
    steps, threshold = TASKS[task]
    evaluations = metrics.read(RUNS / task, "eval")
    worst = {e["step"]: min(e["returns"]) for e in evaluations}
    learnt = next((step for step, value in worst.items() if value >= threshold), None)
    last = evaluations[-1]
    return {
        "env": task,
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
