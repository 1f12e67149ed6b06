"""What a run will take of the device's memory, known before anything is allocated."""

from __future__ import annotations

import math
import os
from pathlib import Path

import jax

from dreamerzero.types import UsageError


def nbytes(tree) -> int:
    """The bytes of every array in a pytree; `jax.eval_shape` of a program's state will do."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def require(needed: int, what: str) -> None:
    """Refuses what the device cannot hold.

    Args:
      needed: bytes.
      what: what needs them, the subject of the message's sentence.
    Raises:
      UsageError: with both numbers.
    """
    device = jax.devices()[0]
    there = available(device)
    if needed > there:
        raise UsageError(
            f"{what} needs {readable(needed)}, but the device ({device.device_kind}) has only "
            f"{readable(there)} free. "
            "Lower the replay's capacity, the batch or the model, or train fewer seeds at a time."
        )


def available(device) -> int:
    """Free bytes of a device; of the host's memory if it is the CPU or does not tell."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return min([_host_memory(), *_container_limits()])


def readable(number: int) -> str:
    """`1536` → `1.5 KiB`."""
    size, units = float(number), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while round(size, 1) >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{number} bytes" if units[0] == "bytes" else f"{size:.1f} {units[0]}"


def _host_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _container_limits() -> list[int]:
    files = map(Path, ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"))
    limits = [file.read_text().strip() for file in files if file.exists()]
    return [int(limit) for limit in limits if limit.isdigit()]  # "max": no limit
