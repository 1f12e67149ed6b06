"""Does Dreamer learn? Three seeds on each task, with the preset for CPUs.

Runs are resumable and land in `runs/learning/`; repeat the command after an interruption. Writes
one JSON and one figure with all curves into `benchmarks/results/`.

    python benchmarks/dreamer_learning.py            # all tasks
    python benchmarks/dreamer_learning.py Catch-bsuite
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from common import RESULTS, report

from dreamerzero.training import metrics
from dreamerzero.viz import curves

TASKS = {  # environment: steps, the return that counts as learnt
    "CartPole-v1": (30_000, 475.0),
    "Pendulum-v1": (30_000, -250.0),
    "Catch-bsuite": (20_000, 0.9),
    "MemoryChain-bsuite": (20_000, 0.9),
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
    finished = [task for task in TASKS if (RUNS / task / "summary.json").exists()]
    for task in finished:
        curves.plot([RUNS / task], RESULTS / f"dreamer_{task}.png")
    report(
        "dreamer_learning",
        [row(task) for task in finished],
        curves={task: metrics.read(RUNS / task, "eval") for task in finished},
    )


def train(task: str) -> None:
    steps, _ = TASKS[task]
    command = [sys.executable, "-m", "dreamerzero", "train", "dreamer", "--env", task]
    options = {"steps": steps, "num-seeds": SEEDS, "eval-every": 2000, "run-dir": RUNS / task}
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    subprocess.run(command, check=True)


def row(task: str) -> dict:
    """When every seed had learnt, and what became of it."""
    _, threshold = TASKS[task]
    evaluations = metrics.read(RUNS / task, "eval")
    summary = json.loads((RUNS / task / "summary.json").read_text())
    learnt = [e["step"] for e in evaluations if min(e["returns"]) >= threshold]
    return {
        "env": task,
        "threshold": threshold,
        "all seeds at": learnt[0] if learnt else None,
        "worst seed after that": min(
            (min(e["returns"]) for e in evaluations if learnt and e["step"] >= learnt[0]),
            default=None,
        ),
        "final": summary["returns"],
        "steps": summary["steps"],
        "updates": summary["updates"],
        "replay ratio": summary["replay_ratio"],
        "parameters": summary["parameters"],
        "wall s": summary["wall_s"],
        "compile s": summary["compile_s"],
    }


if __name__ == "__main__":
    main()
