import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from matplotlib import rcParams

from dreamerzero.training import config
from dreamerzero.training.config import RunConfig
from dreamerzero.types import UsageError
from dreamerzero.viz.curves import bootstrap_interval, labels, plot, read


def write_run(run_dir, rows, agent="dyna", env="DynaMaze-v0"):
    run_dir.mkdir()
    run = RunConfig(agent, env, steps=20, seed=0, num_seeds=2, eval_every=10, fields={})
    run.write(run_dir)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run_dir


def evaluation(step, *returns):
    return {"kind": "eval", "step": step, "returns": returns}


def test_bootstrap_interval_is_scipys():
    returns = np.random.default_rng(1).gamma(2.0, 50.0, (12, 3))
    low, high = bootstrap_interval(returns, resamples=40_000)
    oracle = scipy.stats.bootstrap(
        (returns,), np.mean, axis=0, n_resamples=40_000, method="percentile", rng=2
    ).confidence_interval
    spread = oracle.high - oracle.low
    np.testing.assert_allclose((low - oracle.low) / spread, 0.0, atol=0.02)
    np.testing.assert_allclose((high - oracle.high) / spread, 0.0, atol=0.02)


def test_bootstrap_interval_of_equal_seeds_is_a_point():
    low, high = bootstrap_interval(np.full((5, 2), 7.0))
    np.testing.assert_allclose([low, high], 7.0)


def test_read_takes_evaluations_in_order(tmp_path):
    rows = [
        {"kind": "train", "step": 5, "metrics": {}},
        evaluation(20, 3.0, 4.0),
        evaluation(10, 1.0, 2.0),
        evaluation(20, 5.0, 6.0),
    ]
    curve = read(write_run(tmp_path / "run", rows))
    np.testing.assert_array_equal(curve.steps, [10, 20])
    np.testing.assert_array_equal(curve.returns, [[1.0, 5.0], [2.0, 6.0]])


def test_who_takes_no_steps_is_drawn_by_updates(tmp_path):
    rows = [evaluation(0, 1.0, 2.0) | {"updates": n} for n in (5, 10)]
    run = write_run(tmp_path / "run", rows)
    replace(config.read(run), replay="elsewhere").write(run)
    np.testing.assert_array_equal(read(run).steps, [5, 10])
    plot([run], tmp_path / "curve.svg")
    assert "updates per seed" in (tmp_path / "curve.svg").read_text()


def test_an_unfinished_evaluation_is_a_gap(tmp_path):
    curve = read(write_run(tmp_path / "run", [evaluation(10, None, 2.0), evaluation(20, 1.0, 2.0)]))
    assert np.isnan(curve.returns[0, 0])
    low, _ = bootstrap_interval(curve.returns)
    np.testing.assert_array_equal(np.isnan(low), [True, False])


def test_plot_draws_several_runs_and_touches_nothing_else(tmp_path):
    before = dict(rcParams)
    runs = [
        write_run(tmp_path / "one", [evaluation(s, 1.0 * s, 2.0 * s) for s in (10, 20)]),
        write_run(tmp_path / "two", [evaluation(20, 5.0)], agent="dreamer"),
    ]
    out = plot(runs, tmp_path / "figures" / "curves.png")
    assert out.read_bytes().startswith(b"\x89PNG")
    assert dict(rcParams) == before


def test_labels_tell_runs_apart(tmp_path):
    rows = [evaluation(10, 1.0, 2.0)]
    runs = [write_run(tmp_path / name, rows) for name in ("a", "b")]
    curves = [read(run) for run in runs]
    assert labels(curves[:1], runs[:1]) == ["dyna (2 seeds)"]
    assert labels(curves, runs) == ["dyna, a (2 seeds)", "dyna, b (2 seeds)"]
    other = write_run(tmp_path / "c", [evaluation(10, 1.0)], env="Catch-bsuite")
    assert labels([curves[0], read(other)], [runs[0], other]) == [
        "dyna on DynaMaze-v0 (2 seeds)",
        "dyna on Catch-bsuite (1 seed)",
    ]


def test_mistakes_are_explained(tmp_path):
    with pytest.raises(UsageError, match="not a run folder"):
        plot([tmp_path], tmp_path / "curve.png")
    young = write_run(tmp_path / "young", [])
    with pytest.raises(UsageError, match="no evaluation yet"):
        plot([young], tmp_path / "curve.png")
    run = write_run(tmp_path / "run", [evaluation(10, 1.0)])
    with pytest.raises(UsageError, match=r"\.png"):
        plot([run], tmp_path / "curve.movie")
