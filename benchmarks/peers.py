"""Races with other projects: each peer has a virtual environment of its own, and a process in it.

Peers import this too, so it needs Python alone. All sides of a race share one core, on which they
take turns; what counts is CPU time, which others on the machine disturb least.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
REPEATS = 7
ANSWER = "seconds "  # begins a line with them; whatever else is printed is the peer's own

GYM = ("gymnasium==1.3.0", "imageio==2.37.0", "mujoco==3.3.7", "packaging==26.3")
PINS = {
    "mbrl": (
        # Of what it asks for, hydra 1.0 is not for today's Pythons, and notebooks are not needed.
        ("mbrl==0.2.0",),
        (
            "gymnasium==1.3.0",
            "hydra-core==1.3.8",
            "imageio==2.38.1",
            "matplotlib==3.11.2",
            "numpy==2.4.6",
            "omegaconf==2.3.1",
            "termcolor==3.3.0",
            "torch==2.13.0",
            "tqdm==4.70.1",
        ),
    ),
    "sac": ((), ("stable-baselines3==2.9.2", "sbx-rl==0.28.0", "torch==2.13.0", *GYM)),
}
"""Of each environment: packages without what they ask for, and with it."""

SIZES = {
    "observation": 17,
    "action": 6,
    "members": 7,
    "elites": 5,
    "layers": 4,
    "units": 200,
    "batch": 256,
    "rows": 40 * 256,  # an epoch of 40 batches
    "rollouts": 100_000,
    "updates": 100,
    "population": 500,
    "best": 50,
    "horizon": 15,
    "iterations": 5,
    "particles": 20,
}
"""For mbrl and for us: networks, learning from so many rows, and a search."""

SAC_SIZES = {"batch": 256, "layers": 2, "units": 256, "capacity": 100_000, "prefill": 256}
"""The same for SAC, with an update for every step."""

ALONE = {
    "JAX_NUM_CPU_DEVICES": "1",
    "JAX_PLATFORMS": "cpu",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


def python(name: str) -> str:
    """The interpreter of that environment, which is made if need be: a GB or two.

    pip's own settings hold: with an index of PyTorch's wheels for CPUs less is downloaded.
    """
    place = HERE / ".peers" / name
    interpreter, done = place / "bin" / "python", place / "pins.json"
    pins = json.dumps(PINS[name])
    if not done.exists() or done.read_text() != pins:
        print(f"Installing {name} into {place}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        install = [interpreter, "-m", "pip", "install", "-qq"]
        without, whole = PINS[name]
        subprocess.run([*install, *whole], check=True)
        if without:
            subprocess.run([*install, "--no-deps", *without], check=True)
        done.write_text(pins)
    return str(interpreter)


def mbrl() -> list[str]:
    """The command of mbrl's side."""
    return [python("mbrl"), str(HERE / "peer_mbrl.py")]


def serve(calls: dict[str, tuple[int, Callable]]) -> None:
    """Times the calls that are asked for, in the process of one side.

    Args:
      calls: by name, a function without arguments, and how often it does what is measured.
    """
    for line in sys.stdin:
        count, call = calls[line.strip()]
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(ANSWER + json.dumps({"cpu": cpu / count, "wall": wall / count}), flush=True)


def race(sides: dict[str, list[str]], calls, repeats: int = REPEATS, cores: int = 1) -> list[dict]:
    """What each side needs for each of `calls`: a row each.

    Args:
      sides: by name, the command of a process that `serve`s these calls; ours is the first.
      cores: that all sides share. This process keeps to them too: it can race on fewer later.
    Returns:
      Rows with the milliseconds of every side, medians, and how often ours goes into the others'.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
    processes = {
        name: subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ALONE,
        )
        for name, command in sides.items()
    }
    rows = []
    for call in calls:
        for process in processes.values():
            _ask(process, call)  # compiles
        times = [{name: _ask(process, call) for name, process in processes.items()}]
        for _ in range(repeats - 1):
            times.append({name: _ask(process, call) for name, process in processes.items()})
        rows.append({"what": call} | _summary(times))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return rows


def _ask(process, call: str) -> dict:
    process.stdin.write(call + "\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith(ANSWER):
            return json.loads(line.removeprefix(ANSWER))
    raise SystemExit(f"A side of the race broke down at {call!r}: see above.")


def _summary(times: list[dict]) -> dict:
    ours, *others = times[0]
    middle = {
        (name, clock): statistics.median(once[name][clock] for once in times)
        for name in times[0]
        for clock in ("cpu", "wall")
    }
    row = {f"{name} {clock} ms": 1e3 * seconds for (name, clock), seconds in middle.items()}
    for other in others:
        for clock in ("cpu", "wall"):
            row[f"{other}/{ours} {clock}"] = middle[other, clock] / middle[ours, clock]
    return row
