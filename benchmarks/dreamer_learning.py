"""Do PlaNet and the Dreamers learn? Four seeds on each task, with the preset for CPUs.

Runs are resumable and land in `runs/learning/`; repeat the command after an interruption. Writes
one JSON, and a figure for each task, into `benchmarks/results/`; what they hold of other tasks
stays.

    python benchmarks/dreamer_learning.py            # all tasks
    python benchmarks/dreamer_learning.py dreamer-Catch-bsuite planet-Pendulum-v1
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from common import RESULTS, report

from dreamerzero.training import metrics
from dreamerzero.viz import curves


class Task(NamedTuple):
    """A run of `dreamerzero train`, and the return that counts as learnt."""

    agent: str
    env: str
    steps: int
    threshold: float
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.agent}-{self.env}"


TASKS = {
    task.name: task
    for task in (
        Task("dreamer", "CartPole-v1", 30_000, 475.0),
        Task("dreamer", "Pendulum-v1", 15_000, -250.0),
        Task("dreamer", "Catch-bsuite", 24_000, 0.9),
        Task("dreamer", "MemoryChain-bsuite", 12_000, 0.9),
        # One action of .01 s changes too little; PlaNet repeated it 8 times, Dreamer 2 times. With
        # xs' usual entropy seeds stop exploring too soon: 709, 722, 700, 431 after 70,000 steps.
        Task(
            "dreamer",
            "CartPoleSwingup-v0",
            50_000,
            700.0,
            (
                *("--action-repeat", "4", "--agent.train-ratio", "256"),
                *("--agent.entropy", "0.003"),
            ),
        ),
        # Shorter windows: for the same compute twice the updates. The world is learnt sooner.
        Task(
            "dreamer",
            "CartPole-pixels",
            10_000,
            300.0,
            (
                *("--agent.train-ratio", "32", "--agent.batch-length", "16"),
                *("--agent.depth", "4", "--agent.capacity", "40000"),
            ),
        ),
        # With xs' usual entropy exploration ends at 3.5 points, seldom to be left.
        Task(
            "dreamer",
            "Breakout-MinAtar",
            300_000,
            5.0,
            (
                *("--agent.train-ratio", "16", "--agent.batch-length", "16"),
                *("--agent.entropy", "0.01"),
            ),
        ),
        Task("dreamer-v1", "Pendulum-v1", 15_000, -300.0),
        Task("dreamer-v2", "Pendulum-v1", 15_000, -300.0),
        Task("dreamer-v2", "Catch-bsuite", 24_000, 0.9),
        # It plans in every step of an evaluation, so there are fewer of them.
        Task("planet", "Pendulum-v1", 10_000, -300.0, ("--eval-every", "2000")),
    )
}
SEEDS = 4  # two for each core
RUNS = Path("runs/learning")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}; all if none is named")
    chosen = parser.parse_args().tasks or list(TASKS)
    if unknown := set(chosen) - set(TASKS):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(TASKS)}")
    for name in chosen:
        train(TASKS[name])
    evaluations, dreams = recorded("curves"), recorded("dreams")
    for name in TASKS:
        if rows := metrics.read(RUNS / name, "eval"):
            evaluations[name] = rows
            dreams[name] = metrics.read(RUNS / name, "dream")
            curves.plot([RUNS / name], RESULTS / f"{name}.png")
    evaluations = {name: evaluations[name] for name in TASKS if name in evaluations}
    report(
        "dreamer_learning",
        [row(TASKS[name], rows) for name, rows in evaluations.items()],
        curves=evaluations,
        dreams={name: dreams[name] for name in TASKS if name in dreams},
    )


def recorded(part: str) -> dict[str, list[dict]]:
    """That part of the results so far: not every run is in this folder."""
    path = RESULTS / "dreamer_learning.json"
    return json.loads(path.read_text()).get(part, {}) if path.exists() else {}


def train(task: Task) -> None:
    command = [sys.executable, "-m", "dreamerzero", "train", task.agent, "--env", task.env]
    command += ["--steps", str(task.steps), "--num-seeds", str(SEEDS)]
    command += ["--run-dir", str(RUNS / task.name), *task.options]
    subprocess.run(command, check=True)


def row(task: Task, evaluations: list[dict]) -> dict:
    """When every seed had learnt, and what became of it; of a run under way, as far as it went."""
    worst = {e["step"]: min(e["returns"]) for e in evaluations}
    learnt = next((step for step, value in worst.items() if value >= task.threshold), None)
    last = evaluations[-1]
    return {
        "agent": task.agent,
        "env": task.env,
        "seeds": len(last["returns"]),
        "threshold": task.threshold,
        "all seeds at": learnt,
        "worst seed since": min(v for s, v in worst.items() if s >= learnt) if learnt else None,
        "last": last["returns"],
        "steps": last["step"],
        "of": task.steps,
        "updates": last["updates"],
        "wall s": last["wall_s"],
    }


if __name__ == "__main__":
    main()
