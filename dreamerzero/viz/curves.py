"""Learning curves: evaluation return against environment steps, with what the seeds leave open."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from dreamerzero.training import config, metrics
from dreamerzero.types import UsageError
from dreamerzero.viz.colours import SERIES

LINES = ("-", "--", "-.", ":")


class Curve(NamedTuple):
    """A run's evaluations: `steps [T]`, and each seed's mean return `returns [K, T]`."""

    agent: str
    env: str
    steps: np.ndarray
    returns: np.ndarray
    unit: str  # of the steps


def plot(run_dirs: list[Path], out: Path) -> Path:
    """Draws the runs' mean evaluation return and its 95% bootstrap interval over seeds.

    Args:
      run_dirs: folders that `dreamerzero train` wrote.
      out: the picture; its ending (.png, .svg, .pdf) says in which format.
    Returns:
      `out`.
    Raises:
      UsageError: if a folder holds no run, a run has no evaluation yet, or nothing can be written
        with that ending.
    """
    out = Path(out)
    curves = [read(Path(run_dir)) for run_dir in run_dirs]
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    if out.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"Cannot draw {out}: end its name in .png, .svg or .pdf.")
    axes = figure.add_subplot()
    # Two cycles of different lengths: 28 runs before a colour meets the same line again.
    styles = zip(itertools.cycle(SERIES), itertools.cycle(LINES))
    for curve, label, (colour, line) in zip(curves, labels(curves, run_dirs), styles):
        marker = "o" if len(curve.steps) == 1 else None
        axes.plot(
            curve.steps, curve.returns.mean(axis=0), line, color=colour, marker=marker, label=label
        )
        if len(curve.returns) > 1:
            axes.fill_between(
                curve.steps, *bootstrap_interval(curve.returns), color=colour, alpha=0.2, lw=0
            )
    envs = sorted({curve.env for curve in curves})
    axes.set_title(", ".join(envs))
    axes.set_xlabel(f"{' or '.join(sorted({curve.unit for curve in curves}))} per seed")
    seeds = max(len(curve.returns) for curve in curves)
    spread = "\n(mean over seeds, 95% interval)" if seeds > 1 else ""
    axes.set_ylabel(f"evaluation return{spread}")
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    return out


def read(run_dir: Path) -> Curve:
    """The evaluations of a run folder, in the order of steps, or of updates where no steps are
    taken; of two at one step the later."""
    run = config.read(run_dir)
    place, unit = ("updates", "updates") if run.replay else ("step", "environment steps")
    by_step = {row[place]: row["returns"] for row in metrics.read(run_dir, "eval")}
    if not by_step:
        raise UsageError(f"{run_dir} has no evaluation yet; let it train on.")
    steps = sorted(by_step)
    returns = np.array([by_step[step] for step in steps], float).T
    return Curve(run.agent, run.env, np.array(steps), returns, unit)


def labels(curves: list[Curve], run_dirs: list[Path]) -> list[str]:
    """What tells the runs apart: agent, then environment if there are several, then folder."""
    several = len({curve.env for curve in curves}) > 1
    names = [f"{c.agent} on {c.env}" if several else c.agent for c in curves]
    twins = {name for name in names if names.count(name) > 1}
    names = [
        f"{name}, {Path(run_dir).resolve().name}" if name in twins else name
        for name, run_dir in zip(names, run_dirs)
    ]
    counts = [len(curve.returns) for curve in curves]
    return [f"{name} ({k} seed{'s' * (k > 1)})" for name, k in zip(names, counts)]


def bootstrap_interval(returns, level: float = 0.95, resamples: int = 4000):
    """The percentile bootstrap interval of the mean over seeds (Efron & Tibshirani 1993, ch. 13).

    Args:
      returns: `[K, T]`, one row a seed.
    Returns:
      Its lower and upper ends, `[T]` each. Seeds are redrawn as whole curves.
    """
    count = len(returns)
    # How often each seed is drawn is all that a mean of redrawn seeds depends on.
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), resamples)
    tail = (1 - level) / 2
    low, high = np.quantile(draws @ returns / count, [tail, 1 - tail], axis=0)
    return low, high
