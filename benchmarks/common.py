"""What every benchmark shares: where it ran, a table on the console, JSON in `results/`."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def arguments(name: str = "", nargs: int | str = "+") -> list[str]:
    """What the command line says is `name`, and nothing else may be said; with `--help` the
    script's docstring is shown, and no more is done."""
    parser = argparse.ArgumentParser(
        description=sys.modules["__main__"].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if name:
        parser.add_argument(name, nargs=nargs)
    return getattr(parser.parse_args(), name, [])


def machine() -> dict:
    """What a number depends on besides the code."""
    return {
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
    }


def timed(call, repeats: int = 5) -> tuple[float, float]:
    """Seconds of the first call, compilation included, and the median of `repeats` later ones."""

    def once():
        start = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - start

    return once(), statistics.median(once() for _ in range(repeats))


def report(name: str, rows: list[dict], **extra) -> None:
    """Prints `rows` as a table and writes them, with the machine, to `results/NAME.json`."""
    table = Table(title=f"{name} · " + " · ".join(str(value) for value in machine().values()))
    for column in rows[0]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    Console(width=160).print(table)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "rows": rows, **extra}, indent=1) + "\n")


def _shown(value) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
