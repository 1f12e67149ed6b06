"""Checkpoints: everything comes back, nothing half-written counts, nothing damaged is believed."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero.training import checkpoints
from dreamerzero.types import UsageError


def tree(scale=1.0):
    return {
        "params": {
            "kernel": scale * jnp.arange(6.0).reshape(2, 3),
            "half": jnp.ones(3, "bfloat16"),
        },
        "key": jax.random.split(jax.random.key(7), 2),
        "pixels": jnp.arange(5, dtype=jnp.uint8),
        "empty": jnp.zeros((4, 0)),
        "flag": jnp.array([True, False]),
        "scalar": jnp.int32(-3),
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    return checkpoints.save(folder, 12, tree(), {"step": 34})


@pytest.fixture
def copied(saved, tmp_path):
    """A checkpoint of one's own to break."""
    return shutil.copytree(saved, tmp_path / saved.name)


def shapes():
    return jax.eval_shape(tree)


def test_everything_comes_back(saved, same):
    assert checkpoints.manifest(saved)["step"] == 34
    assert same(checkpoints.restore(saved, shapes()), tree())


def test_a_part_comes_back(saved, same):
    part = checkpoints.restore(saved, shapes()["params"], at="['params']")
    assert same(part, tree()["params"])


def test_the_last_two_are_kept(tmp_path):
    for done in (1, 20, 300):
        checkpoints.save(tmp_path, done, {"x": jnp.zeros(2)}, {})
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["0000000020", "0000000300"]
    assert checkpoints.latest(tmp_path).name == "0000000300"


def test_no_folder_no_checkpoint(tmp_path):
    assert checkpoints.latest(tmp_path / "nowhere") is None


@pytest.mark.parametrize("harm", ["change", "remove", "manifest"])
def test_damage_is_noticed(copied, harm):
    biggest = max(
        (p for p in copied.rglob("*") if p.is_file() and p.name != "manifest.json"),
        key=lambda path: path.stat().st_size,
    )
    if harm == "change":
        content = bytearray(biggest.read_bytes())
        content[len(content) // 2] ^= 1
        biggest.write_bytes(content)
    elif harm == "remove":
        biggest.unlink()
    else:
        (copied / "manifest.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        checkpoints.restore(copied, shapes())


def test_another_format_is_refused(copied):
    path = copied / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(UsageError, match="format 99"):
        checkpoints.manifest(copied)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t | {"scalar": jax.ShapeDtypeStruct((), "float32")},
        lambda t: t | {"flag": jax.ShapeDtypeStruct((3,), "bool")},
        lambda t: t | {"more": jax.ShapeDtypeStruct((1,), "float32")},
        lambda t: {name: leaf for name, leaf in t.items() if name != "flag"},
    ],
    ids=["dtype", "shape", "more", "less"],
)
def test_another_programs_state_is_refused(saved, change):
    with pytest.raises(UsageError, match="another program"):
        checkpoints.restore(saved, change(shapes()))


def test_an_interrupted_write_leaves_the_last_good_one(tmp_path, monkeypatch, same):
    checkpoints.save(tmp_path, 1, tree(), {})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_crc", lambda path: 1 / 0)
        with pytest.raises(OSError, match="cannot write checkpoint"):
            checkpoints.save(tmp_path, 2, tree(2.0), {})
    # A process killed while writing leaves such folders.
    (tmp_path / "0000000003.partial").mkdir()
    (tmp_path / "0000000003.partial.orbax-checkpoint-tmp").mkdir()
    assert checkpoints.latest(tmp_path).name == "0000000001"
    assert same(checkpoints.restore(tmp_path / "0000000001", shapes()), tree())
    checkpoints.save(tmp_path, 3, tree(3.0), {})
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["0000000001", "0000000003"]


FULL = """
import sys, pathlib, jax.numpy as jnp
from dreamerzero.training import checkpoints
try:
    checkpoints.save(pathlib.Path(sys.argv[1]), 2, {"x": jnp.arange(300_000.0)}, {})
except OSError as error:
    print("refused", error)
"""


def test_a_full_disk_is_an_oserror(tmp_path):
    checkpoints.save(tmp_path, 1, {"x": jnp.arange(10.0)}, {})
    no_large_files = 'ulimit -f 200; exec "$@"'
    ran = subprocess.run(
        ["sh", "-c", no_large_files, "sh", sys.executable, "-c", FULL, tmp_path],
        capture_output=True,
        text=True,
    )
    assert ran.stdout.startswith("refused cannot write checkpoint"), ran
    assert [path.name for path in tmp_path.iterdir()] == ["0000000001"]
    kept = checkpoints.restore(
        tmp_path / "0000000001", {"x": jax.ShapeDtypeStruct((10,), "float32")}
    )
    np.testing.assert_array_equal(kept["x"], np.arange(10.0))
