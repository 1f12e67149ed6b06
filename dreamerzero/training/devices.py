"""Where the program runs: what the device is called, and the compilations it need not repeat."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import jax


def cache_compilations() -> None:
    """Keeps compiled programs between processes: a second start takes moments.

    They lie in `$DREAMERZERO_CACHE`, or in `~/.cache/dreamerzero/xla`.
    """
    folder = os.environ.get("DREAMERZERO_CACHE") or Path.home() / ".cache" / "dreamerzero" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def describe() -> str:
    """The device, for people and for `summary.json`."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"CPU, {platform.machine()}, {os.cpu_count()} cores"
    return device.device_kind
