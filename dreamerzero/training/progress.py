"""What people see of a run: a bar on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 10.0  # seconds between two lines where there is no terminal


class Display:
    """A context manager around a run."""

    def __init__(self, quiet: bool):
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self.live = self.console.is_terminal and not quiet
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not self.live,
            transient=True,
        )
        self.returns = "–"
        self.figures = ""
        self.spoke = time.monotonic()

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *_) -> None:
        self.bar.stop()

    def begin(self, total: int, done: int) -> None:
        """`total` iterations in all, `done` of them in earlier processes."""
        self.total = total
        self.task = self.bar.add_task("start", total=total, completed=done, figures="")

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False)

    def doing(self, text: str) -> None:
        """What the next moments go into."""
        if self.live:
            self.bar.update(self.task, description=text)
        elif text.startswith("compiling"):
            self.say(f"{text} …")

    def row(self, row: dict) -> None:
        """Shows the figures of a `train` row from now on."""
        ended = [value for value in row["metrics"].get("episode_return", []) if value is not None]
        self.returns = f"{sum(ended) / len(ended):.4g}" if ended else self.returns
        speeds = (
            f"{row[name]:,.0f} {unit}/s"
            for name, unit in (("env_steps_per_s", "env steps"), ("updates_per_s", "updates"))
            if row[name]
        )
        self.figures = " · ".join((f"return {self.returns}", *speeds))

    def advance(self, phase: str, done: int, place: str) -> None:
        """`done` iterations are behind us, which is to say some `place`."""
        self.bar.update(self.task, description=phase, completed=done, figures=self.figures)
        if not self.live and time.monotonic() - self.spoke > EVERY:
            self.spoke = time.monotonic()
            self.say(f"{phase} {done / self.total:.0%} · {place} · {self.figures}")
