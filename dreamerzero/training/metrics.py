"""The diary of a run: `metrics.jsonl`, one JSON object a line, and TensorBoard if asked for.

Rows of kind `train` hold what happened since the row before, rows of kind `eval` an evaluation, and
beside it, if the agent can dream, rows of kind `dream` what `dreams.measure` found:

    {"kind": "train", "step": n, "updates": n, "wall_s": s, "phase": name, "env_steps_per_s": r,
     "updates_per_s": r, "metrics": {name: [K]}}
    {"kind": "eval", "step": n, "updates": n, "wall_s": s, "returns": [K], "episodes": n}
    {"kind": "dream", "step": n, "updates": n, "wall_s": s, "metrics": {name: [K]}}

`step` and `updates` count since the run began, for each seed; rates are over all seeds together.
Every list has one number a seed, null where there is none (no episode ended, or none was so long).
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np

from dreamerzero.training.files import whole
from dreamerzero.types import UsageError

METRICS = "metrics.jsonl"


def means(sums: dict, count: int) -> dict[str, list]:
    """Means over `count` iterations from the sums of their metrics, `[K]` each.

    `episodes` stays a count; an episode's return and length are means over finished episodes.
    """

    def mean(name, total):
        if name == "episodes":
            return total
        per_episode = name in ("episode_return", "episode_length")
        with np.errstate(invalid="ignore"):  # 0 / 0: no episode has ended
            return total / (sums["episodes"] if per_episode else count)

    return {name: numbers(mean(name, total)) for name, total in sums.items()}


def numbers(values) -> list:
    """As JSON, which has no NaN: null."""
    return [None if math.isnan(value) else value for value in np.asarray(values).tolist()]


def average(values: list) -> float | None:
    """Over seeds; None unless every seed has a value."""
    return None if None in values else sum(values) / len(values)


def over_seeds(returns: list) -> dict:
    """The mean and the standard deviation of the seeds' returns, beside them."""
    values = [math.nan if value is None else value for value in returns]
    mean, std = numbers([np.mean(values), np.std(values)])
    return {"return_mean": mean, "return_std": std, "returns": returns}


def read(run_dir: Path, kind: str) -> list[dict]:
    """The rows of that kind, in order; none if there is no diary."""
    path = run_dir / METRICS
    try:
        rows = [json.loads(line) for line in _lines(path)]
    except ValueError as error:
        raise UsageError(f"{path} cannot be read ({error}): is it damaged?") from error
    return [row for row in rows if row["kind"] == kind]


def _lines(path: Path) -> list[str]:
    """The whole lines of a file: not what a process wrote last that was killed."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


class Writer:
    """Appends rows."""

    def __init__(self, run_dir: Path, rows: int, step: int, tensorboard: bool):
        """Goes on after the first `rows` rows, at `step`, and forgets the rows after them."""
        board = _tensorboard() if tensorboard else None
        path = run_dir / METRICS
        kept = _lines(path)[:rows]
        if len(kept) < rows:
            raise UsageError(
                f"{path} has {len(kept)} of the {rows} rows that were there when the newest "
                "checkpoint was saved. Remove that one from checkpoints/ to go on from the one "
                "before it, or all of them to begin anew; or give another --run-dir."
            )
        with whole(path) as partial:
            partial.write_text("".join(kept))
        self._file = path.open("a")
        self._board = board and board(str(run_dir / "tensorboard"), purge_step=step + 1)

    def write(self, row: dict) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()  # a killed run has lost nothing, and `tail -f` shows it
        if self._board:
            self._scalars(row)

    def sync(self) -> None:
        """Makes sure that the rows outlive the machine: a checkpoint will count on them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        if self._board:
            self._board.close()

    def _scalars(self, row: dict) -> None:
        """Means over seeds; losses against updates would hide the cost, so all is against steps."""
        lists = row["metrics"] if "metrics" in row else {"return": row["returns"]}
        rates = {name: row[name] for name in row if name.endswith("_per_s")}
        scalars = rates | {name: average(values) for name, values in lists.items()}
        for name, value in scalars.items():
            if value is not None:
                self._board.add_scalar(f"{row['kind']}/{name}", value, row["step"])


def _tensorboard():
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "--tensorboard needs tensorboardX: `pip install tensorboardX`, or leave it out."
        ) from error
    return SummaryWriter
