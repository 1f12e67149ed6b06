"""The diary: means over what they are means of, and no row twice."""

import json
import sys

import numpy as np
import pytest

from dreamerzero.training import metrics
from dreamerzero.types import UsageError


def test_means():
    sums = {
        "loss": np.array([6.0, 3.0], np.float32),
        "episodes": np.array([2.0, 0.0], np.float32),
        "episode_return": np.array([5.0, 0.0], np.float32),
        "episode_length": np.array([8.0, 0.0], np.float32),
    }
    assert metrics.means(sums, 3) == {
        "loss": [2.0, 1.0],
        "episodes": [2.0, 0.0],
        "episode_return": [2.5, None],
        "episode_length": [4.0, None],
    }


def test_over_seeds():
    assert metrics.over_seeds([1.0, 3.0]) == {
        "return_mean": 2.0,
        "return_std": 1.0,
        "returns": [1.0, 3.0],
    }
    assert metrics.over_seeds([1.0, None])["return_mean"] is None


def test_a_writer_goes_on_where_it_is_told(tmp_path):
    def write(rows, *values):
        writer = metrics.Writer(tmp_path, rows, 0, tensorboard=False)
        for value in values:
            writer.write({"kind": "eval", "returns": [value]})
        writer.close()

    write(0, 1.0, 2.0, 3.0)
    write(2, 4.0)
    assert [row["returns"] for row in metrics.read(tmp_path, "eval")] == [[1.0], [2.0], [4.0]]
    write(0, 5.0)
    assert [row["returns"] for row in metrics.read(tmp_path, "eval")] == [[5.0]]
    assert metrics.read(tmp_path, "train") == []
    assert json.loads((tmp_path / "metrics.jsonl").read_text())


def test_a_torn_line_is_no_row(tmp_path):
    writer = metrics.Writer(tmp_path, 0, 0, tensorboard=False)
    writer.write({"kind": "eval", "step": 1})
    writer.write({"kind": "eval", "step": 2})
    writer.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-5])
    assert metrics.read(tmp_path, "eval") == [{"kind": "eval", "step": 1}]
    before = path.read_text()
    with pytest.raises(UsageError, match="1 of the 2 rows"):
        metrics.Writer(tmp_path, 2, 0, tensorboard=False)
    assert path.read_text() == before
    metrics.Writer(tmp_path, 1, 0, tensorboard=False).close()
    path.write_text("nonsense\n")
    with pytest.raises(UsageError, match="damaged"):
        metrics.read(tmp_path, "eval")
    path.unlink()
    with pytest.raises(UsageError, match="0 of the 2 rows"):
        metrics.Writer(tmp_path, 2, 0, tensorboard=False)


def test_tensorboard_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UsageError, match="pip install tensorboardX"):
        metrics.Writer(tmp_path, 0, 0, tensorboard=True)
