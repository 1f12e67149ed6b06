"""Learning from another run's replay."""

import contextlib
import json
import shutil

import jax
import numpy as np
import pytest

from dreamerzero import agents, envs
from dreamerzero.envs.probes import ActionProbe
from dreamerzero.training import checkpoints, metrics, program, runner
from dreamerzero.training import config as configs
from dreamerzero.types import UsageError
from tests.agents.test_muzero import SMALL
from tests.training.test_runner import interrupt_at

FIELDS = SMALL | {"train_ratio": 32.0}


def run(name, run_dir, env, steps=600, fields=FIELDS, **settings):
    env = envs.make(env)
    agent = agents.make(name, env, **fields)
    config = configs.make(name, agent, env, steps, **settings)
    return agent, env, config, runner.run(agent, env, config, run_dir, quiet=True)


def final(agent, env, config, run_dir):
    """The agent's learning state at the end, leaves `[K, ...]`."""
    shapes = jax.eval_shape(jax.vmap(program.start, (None, None, 0)), agent, env, config.keys())
    checkpoint = checkpoints.latest(run_dir / "checkpoints")
    return checkpoints.restore(checkpoint, shapes.agent, at=".state.agent")


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A run whose own learning is of no use: its learning rate is zero."""
    run_dir = tmp_path_factory.mktemp("played") / "run"
    return run_dir, run("muzero", run_dir, ActionProbe(), fields=FIELDS | {"learning_rate": 0.0})


def test_it_learns_and_takes_no_step(played, tmp_path):
    source_dir, (*source, summary) = played
    assert summary["return_mean"] < 0.9
    settings = {"steps": 1200, "replay": str(source_dir)}
    *offline, summary = run("muzero-reanalyse", tmp_path / "run", ActionProbe(), **settings)
    assert summary["return_mean"] == 1.0
    assert (summary["steps"], summary["replay_ratio"], summary["env_steps_per_s"]) == (0, None, 0)
    assert summary["updates"] == sum(p.iterations * p.repeats for p in offline[0].phases(1200)[1:])
    rows = metrics.read(tmp_path / "run", "train")
    assert "episodes" not in rows[0]["metrics"]
    looks = metrics.read(tmp_path / "run", "eval")
    assert [row["step"] for row in looks] == [0] * len(looks)
    assert 10 <= len(looks) <= 11 and looks[0]["updates"] < summary["updates"] / 9
    before, after = final(*source, source_dir), final(*offline, tmp_path / "run")
    for a, b in zip(
        jax.tree.leaves((before.replay.streams, before.params["observation"])),
        jax.tree.leaves((after.replay.streams, after.params["observation"])),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    # The command line remembers what it learnt from, and a finished run is only shown again.
    assert configs.read(tmp_path / "run").replay == str(source_dir)
    assert run("muzero-reanalyse", tmp_path / "run", ActionProbe(), **settings)[-1] == summary


def test_stopping_changes_nothing(played, monkeypatch, tmp_path, same):
    source_dir, _ = played
    settings = {"steps": 600, "replay": str(source_dir)}
    with monkeypatch.context() as patch:
        interrupt_at(patch, 23)
        with pytest.raises(runner.Interrupted, match=r"at update \d+ of [\d,]+ and saved") as stop:
            run("muzero-reanalyse", tmp_path / "run", ActionProbe(), **settings)
    *resumed, summary = run("muzero-reanalyse", tmp_path / "run", ActionProbe(), **settings)
    phase = resumed[0].phases(600)[1]
    assert f"update {23 * phase.updates:,} of {summary['updates']:,} " in str(stop.value)
    *straight, whole = run("muzero-reanalyse", tmp_path / "whole", ActionProbe(), **settings)
    assert summary["returns"] == whole["returns"]
    assert same(final(*resumed, tmp_path / "run"), final(*straight, tmp_path / "whole"))


@pytest.mark.parametrize(
    ("env", "fields", "settings", "message"),
    [
        ("CartPole-v1", {}, {}, "a run with env .*ActionProbe; got CartPole-v1"),
        (ActionProbe(), {}, {"num_seeds": 2}, "num_seeds 1; got 2"),
        (ActionProbe(), {"capacity": 2000}, {}, r"capacity \(4000 there, 2000 here\)"),
    ],
)
def test_what_does_not_fit_is_refused(env, fields, settings, message, played, tmp_path):
    with pytest.raises(UsageError, match=message):
        run(
            "muzero-reanalyse",
            tmp_path / "run",
            env,
            fields=FIELDS | fields,
            replay=str(played[0]),
            **settings,
        )
    assert not (tmp_path / "run").exists()


def test_a_run_that_has_seen_too_little_is_refused(played, tmp_path):
    agent, *_ = played[1]
    source = shutil.copytree(played[0], tmp_path / "source")
    first, *_ = agent.phases(600)
    least = first.iterations * first.collect * agent.num_envs
    manifest = checkpoints.latest(source / "checkpoints") / "manifest.json"
    for steps, enough in ((least - 1, False), (least, True)):
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"step": steps}))
        refused = contextlib.nullcontext() if enough else pytest.raises(UsageError, match="learns")
        with refused:
            run("muzero-reanalyse", tmp_path / "run", ActionProbe(), replay=str(source))
        assert (tmp_path / "run").exists() == enough


def test_an_agent_without_a_replay_is_refused(played, tmp_path):
    with pytest.raises(UsageError, match="dyna keeps no replay"):
        run("dyna", tmp_path / "run", "DynaMaze-v0", fields={}, replay=str(played[0]))


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not a run folder"):
        run("muzero", tmp_path / "run", ActionProbe(), replay=str(tmp_path / "nothing"))
