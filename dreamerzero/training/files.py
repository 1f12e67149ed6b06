"""Files that are whole, or not there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

PARTIAL = "partial-"


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that takes its place, in one step, only when it is complete."""
    partial = path.with_name(PARTIAL + path.name)
    yield partial
    partial.replace(path)


def write_json(path: Path, content) -> None:
    """Replaces a file in one step, so that it is never half written."""
    with whole(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")
