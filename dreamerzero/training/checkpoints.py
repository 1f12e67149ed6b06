"""Checkpoints of a whole run, written by orbax: all or nothing, and never trusted unread.

A checkpoint is a folder named by the iterations done. It appears by a rename when it is complete,
beside its predecessor; `manifest.json` holds the position in the run and a CRC-32 of every file.
"""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from dreamerzero.types import UsageError

FORMAT = 1
KEEP = 2
MANIFEST = "manifest.json"


def save(
    folder: Path,
    done: int,
    state: Any,
    position: dict,
    keep: int | None = KEEP,
    attached: dict[str, bytes] | None = None,
) -> Path:
    """Writes `state` as `folder/<done>` and drops all but the last `keep` checkpoints, if any.

    Args:
      done: iterations since the run began.
      state: a pytree of arrays, typed keys included.
      position: what else to remember, as JSON.
      attached: files to put beside it, by name.
    Raises:
      OSError: if it cannot be written; earlier checkpoints are then untouched.
    """
    target = folder / f"{done:010d}"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)  # what a process left that was killed while it wrote
    partial = folder / f"{target.name}.partial"
    arrays = _leaves(jax.device_get(_plain(state)))
    leaves = {name: _signature(array) for name, array in arrays.items()}
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            # Orbax refuses arrays without elements; the template brings them back.
            filled = {name: array for name, array in arrays.items() if array.size}
            checkpointer.save(partial.absolute(), filled)
        for name, content in (attached or {}).items():
            (partial / name).write_bytes(content)
        files = {str(path.relative_to(partial)): _crc(path) for path in _files(partial)}
        content = position | {"format": FORMAT, "files": files, "leaves": leaves}
        (partial / MANIFEST).write_text(json.dumps(content, indent=1))
    except Exception as error:  # tensorstore reports a full disk as a ValueError
        _sweep(folder)
        reason = str(error).partition("\n")[0]
        raise OSError(f"cannot write checkpoint {target}: {reason}") from error
    partial.rename(target)
    for old in every(folder)[:-keep] if keep else ():
        shutil.rmtree(old)
    return target


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, if there is one."""
    return (every(folder) or [None])[-1]


def every(folder: Path) -> list[Path]:
    """All complete checkpoints, from the first on."""
    return sorted(path for path in folder.glob("*") if path.name.isdigit())


def manifest(checkpoint: Path) -> dict:
    """What `save` was told to remember, with `leaves`, after every file has been checked.

    Raises:
      UsageError: if a file is missing or changed, or another version wrote it.
    """
    try:
        content = json.loads((checkpoint / MANIFEST).read_text())
        files, version = content["files"], content["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(checkpoint, MANIFEST) from error
    if version != FORMAT:
        raise UsageError(
            f"Checkpoint {checkpoint} has format {version} and this version reads format {FORMAT}: "
            "go on with the version of dreamerzero that wrote it, or use another --run-dir."
        )
    for name, crc in files.items():
        path = checkpoint / name
        if not path.is_file() or _crc(path) != crc:
            raise _damaged(checkpoint, name)
    return content


def restore(checkpoint: Path, template: Any, at: str = "") -> Any:
    """The state in a checkpoint, or the part of it at the path `at`.

    Args:
      template: a pytree of `ShapeDtypeStruct`s, as from `jax.eval_shape`.
      at: where in the saved state the template belongs, such as `.state.agent.params`.
    Raises:
      UsageError: if the checkpoint is damaged, or holds other leaves or shapes.
    """
    saved = manifest(checkpoint)["leaves"]
    shapes = _leaves(jax.eval_shape(_plain, template), at)
    wanted = {name: _signature(leaf) for name, leaf in shapes.items()}
    if wanted.items() - saved.items() or not (at or len(wanted) == len(saved)):
        raise UsageError(
            f"Checkpoint {checkpoint} holds the state of another program: the code of the agent or "
            "the environment has changed since it was written. Use another --run-dir."
        )
    filled = {name: np.empty(0) for name, leaf in shapes.items() if leaf.size}
    with ocp.PyTreeCheckpointer() as checkpointer:
        arrays = checkpointer.restore(
            checkpoint.absolute(), ocp.args.PyTreeRestore(item=filled, partial_restore=True)
        )

    def leaf(path, like):
        name = at + jax.tree_util.keystr(path)
        # A copy: the device must own what the training program will be allowed to overwrite.
        array = jnp.array(arrays[name]) if name in arrays else jnp.zeros(like.shape, like.dtype)
        return jax.random.wrap_key_data(array) if _is_key(like) else array

    return jax.tree_util.tree_map_with_path(leaf, template)


def _plain(tree):
    """Typed keys as the integers they are made of."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _leaves(tree, at: str = "") -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {at + jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _signature(leaf) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _sweep(folder: Path) -> None:
    for unfinished in folder.glob("*.partial*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return crc


def _damaged(checkpoint: Path, name: str) -> UsageError:
    return UsageError(
        f"Checkpoint {checkpoint} is damaged ({name} is missing or changed): remove that folder to "
        "go on from the checkpoint before it, or from the start if there is none."
    )
