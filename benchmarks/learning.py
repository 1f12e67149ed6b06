"""Learning runs: tasks with thresholds, four seeds each if not said otherwise, resumable.

Runs land in `runs/learning/`; repeat a command after an interruption. Results go, as one JSON and a
figure for each task, into `benchmarks/results/`; what they hold of other tasks stays.
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

SEEDS = 4  # two for each core
RUNS = Path("runs/learning")


class Task(NamedTuple):
    """A run of `dreamerzero train`, and the return that counts as learnt."""

    agent: str
    env: str
    steps: int
    threshold: float
    options: tuple[str, ...] = ()
    seeds: int = SEEDS
    variant: str = ""
    """What the options make of the agent, where there are several tasks of it."""

    @property
    def label(self) -> str:
        return f"{self.agent}-{self.variant}" if self.variant else self.agent

    @property
    def name(self) -> str:
        return f"{self.label}-{self.env}"


def main(name: str, what: str, tasks: tuple[Task, ...]) -> None:
    """Runs the tasks named on the command line, or all, and reports them as `results/NAME.json`."""
    tasks = {task.name: task for task in tasks}
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(tasks)}; all if none is named")
    chosen = parser.parse_args().tasks or list(tasks)
    if unknown := set(chosen) - set(tasks):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(tasks)}")
    for task in chosen:
        train(tasks[task])
    evaluations, dreams = recorded(name, "curves"), recorded(name, "dreams")
    for task in chosen:
        if rows := metrics.read(RUNS / task, "eval"):
            evaluations[task] = rows
            dreams[task] = metrics.read(RUNS / task, "dream")
            curves.plot([RUNS / task], RESULTS / f"{task}.png")
    evaluations = {task: evaluations[task] for task in tasks if task in evaluations}
    report(
        name,
        [row(tasks[task], rows) for task, rows in evaluations.items()],
        curves=evaluations,
        dreams={task: dreams[task] for task in tasks if dreams.get(task)},
    )


def recorded(name: str, part: str) -> dict[str, list[dict]]:
    """That part of the results so far: not every run is in this folder."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()).get(part, {}) if path.exists() else {}


def train(task: Task) -> None:
    command = [sys.executable, "-m", "dreamerzero", "train", task.agent, "--env", task.env]
    command += ["--steps", str(task.steps), "--num-seeds", str(task.seeds)]
    command += ["--run-dir", str(RUNS / task.name), *task.options]
    subprocess.run(command, check=True)


def row(task: Task, evaluations: list[dict]) -> dict:
    """When every seed had learnt, by updates where no steps are taken, and what became of it; of a
    run under way, as far as it went."""
    last = evaluations[-1]
    place = "step" if last["step"] else "updates"
    worst = {e[place]: min(e["returns"]) for e in evaluations}
    learnt = next((at for at, value in worst.items() if value >= task.threshold), None)
    return {
        "agent": task.label,
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
