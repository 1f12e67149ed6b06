"""The chunked runner: the same numbers as the whole program, through stops, kills and restarts."""

import json
import signal
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from dreamerzero import agents, envs, training
from dreamerzero.replay import memory
from dreamerzero.training import checkpoints, evaluation, metrics, plan, program, runner
from dreamerzero.training import config as configs
from dreamerzero.training.progress import Display
from dreamerzero.types import UsageError, static
from tests.agents.test_dreamer import TINY
from tests.agents.test_muzero import SMALL
from tests.agents.test_world_models import SMALL as SMALL_WORLD_MODELS
from tests.toy import Toy
from tests.training.conftest import STEPS


def run(agent, env, config, run_dir, **options):
    return runner.run(agent, env, config, run_dir, **({"quiet": True} | options))


def final(agent, env, config, run_dir):
    """The state that a finished run has saved."""
    shapes = jax.eval_shape(runner.start, agent, env, config.keys())
    newest = checkpoints.latest(run_dir / "checkpoints")
    return checkpoints.restore(newest, runner.Carry(shapes, {})).state


def rows(run_dir):
    """The diary without what the clock said."""
    clocked = ("wall_s", "env_steps_per_s", "updates_per_s")
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in clocked} for line in lines]


@pytest.fixture(scope="module")
def straight(agent, env, make_config, tmp_path_factory):
    """An uninterrupted run, with few rows so that there is something between them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "LOGS", 5)
        run_dir = tmp_path_factory.mktemp("straight") / "run"
        return run_dir, run(agent, env, make_config(), run_dir)


@pytest.fixture
def few_rows(monkeypatch):
    monkeypatch.setattr(plan, "LOGS", 5)


def interrupt_at(monkeypatch, done, number=signal.SIGINT):
    """Has the signal arrive after that many iterations, one iteration a chunk."""
    real = Display.advance

    def advance(self, phase, now, place):
        real(self, phase, now, place)
        if now == done:
            signal.raise_signal(number)

    monkeypatch.setattr(Display, "advance", advance)
    monkeypatch.setattr(runner, "CHUNK_S", 0.0)


def test_chunks_are_the_whole(straight, agent, env, make_config, same):
    run_dir, _ = straight
    config = make_config()
    whole, _ = jax.vmap(lambda key: training.train(agent, env, key, steps=STEPS))(config.keys())
    lanes = final(agent, env, config, run_dir)
    assert same(lanes, whole)
    single, _ = training.train(agent, env, jax.random.key(4), steps=STEPS)
    assert same(jax.tree.map(lambda leaf: leaf[1], lanes), single)


def test_a_run_that_cannot_be_planned_leaves_no_folder(tmp_path):
    env = envs.make("CartPole-v1")
    agent = agents.make("muzero", env, **SMALL)
    config = configs.make("muzero", agent, env, 8)
    with pytest.raises(UsageError, match="at least"):
        run(agent, env, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_dreamer_in_lanes_and_chunks_is_dreamer_alone_and_whole(tmp_path, same, few_rows):
    """To the bit, though its networks would round differently side by side."""
    env = envs.make("CartPole-v1")
    agent = agents.make("dreamer", env, "xs", **TINY)
    config = configs.make("dreamer", agent, env, 80, seed=0, num_seeds=4)
    run(agent, env, config, tmp_path / "run")
    lanes = final(agent, env, config, tmp_path / "run")
    keys = config.keys()
    whole, _ = training.train(agent, env, keys[1], steps=80)
    assert same(jax.tree.map(lambda leaf: leaf[1], lanes), whole)
    assert not same(jax.tree.map(lambda leaf: leaf[0], lanes), whole)
    returns = evaluation.evaluate_lanes(agent, lanes.agent.params, env, keys, episodes=8)
    alone = evaluation.evaluate(agent, whole.agent.params, env, keys[1], episodes=8)
    np.testing.assert_array_equal(returns[1], alone)
    assert not np.array_equal(returns[0], alone)


def test_muzero_in_chunks_is_muzero_whole_and_lanes_differ_by_rounding(tmp_path, same, few_rows):
    env = envs.make("CartPole-v1")
    agent = agents.make("muzero", env, **SMALL)
    states = {}
    for seeds in (range(2), range(1, 2)):
        config = configs.make("muzero", agent, env, 120, seed=seeds[0], num_seeds=len(seeds))
        run_dir = tmp_path / str(len(seeds))
        run(agent, env, config, run_dir)
        states[len(seeds)] = final(agent, env, config, run_dir)
    whole, _ = training.train(agent, env, jax.random.key(1), steps=120)
    assert same(jax.tree.map(lambda leaf: leaf[0], states[1]), whole)
    lane = jax.tree.map(lambda leaf: leaf[1], states[2])
    assert same(lane.agent.replay.streams.frames.action, whole.agent.replay.streams.frames.action)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4),
        lane.agent.params,
        whole.agent.params,
    )


def test_rows_are_the_metrics_of_the_whole(straight, agent, env):
    run_dir, _ = straight
    _, whole = training.train(agent, env, jax.random.key(3), steps=STEPS)
    trained = [row for row in metrics.read(run_dir, "train") if row["phase"] == "train"]
    episodes = sum(row["metrics"]["episodes"][0] for row in trained)
    returns = sum(
        row["metrics"]["episodes"][0] * (row["metrics"]["episode_return"][0] or 0.0)
        for row in trained
    )
    assert episodes == whole["train"]["episodes"].sum()
    assert returns == pytest.approx(float(whole["train"]["episode_return"].sum()))
    first = trained[0]["step"] // 20 - 12  # iterations; 12 of them were the prefill
    loss = float(whole["train"]["loss"][:first].mean())
    assert trained[0]["metrics"]["loss"][0] == pytest.approx(loss, rel=1e-5)


def test_summary(straight, agent):
    run_dir, summary = straight
    assert summary == json.loads((run_dir / "summary.json").read_text())
    assert summary["steps"] == STEPS
    assert summary["updates"] == 2 * 3 + 2 * 38
    assert summary["replay_ratio"] == pytest.approx(20 * 82 / STEPS)
    assert summary["parameters"] == 6 * 2
    assert len(summary["returns"]) == summary["num_seeds"] == 2
    assert summary["return_mean"] == pytest.approx(np.mean(summary["returns"]))
    assert summary["return_std"] == pytest.approx(np.std(summary["returns"]))
    assert summary["wall_s"] > summary["compile_s"] > 0
    evaluations = metrics.read(run_dir, "eval")
    assert [row["step"] for row in evaluations] == list(range(100, STEPS + 1, 100))
    assert evaluations[-1]["returns"] == summary["returns"]


def test_stopping_changes_nothing(
    straight, agent, env, make_config, few_rows, monkeypatch, tmp_path, same
):
    config = make_config()
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 23)  # between two rows
        with pytest.raises(training.Interrupted, match="step 400 of 1,000") as stop:
            run(agent, env, config, tmp_path / "run")
    assert stop.value.signum == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is handler
    # A killed process has written rows after its last checkpoint: they come again.
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 99999}\n')
    with monkeypatch.context() as patch:
        interrupt_at(patch, 30, signal.SIGTERM)
        with pytest.raises(training.Interrupted) as stop:
            run(agent, env, config, tmp_path / "run")
    assert stop.value.signum == signal.SIGTERM
    run(agent, env, config, tmp_path / "run")
    run_dir, _ = straight
    assert same(final(agent, env, config, tmp_path / "run"), final(agent, env, config, run_dir))
    assert rows(tmp_path / "run") == rows(run_dir)


def test_world_models_can_be_stopped_in_every_phase(monkeypatch, tmp_path, same, few_rows):
    env = envs.make("Pendulum-pixels")
    agent = agents.make("world-models", env, "xs", **(SMALL_WORLD_MODELS | {"real_generations": 4}))
    config = configs.make("world-models", agent, env, 200)
    run(agent, env, config, tmp_path / "straight")
    done = 0
    for phase in agent.phases(200):
        with monkeypatch.context() as patch:
            interrupt_at(patch, done + 1)
            with pytest.raises(training.Interrupted):
                run(agent, env, config, tmp_path / "run")
        done += phase.iterations
    run(agent, env, config, tmp_path / "run")
    ends = (final(agent, env, config, tmp_path / name) for name in ("run", "straight"))
    assert same(*ends)
    assert rows(tmp_path / "run") == rows(tmp_path / "straight")


@struct.dataclass
class Busy(Toy):
    """The toy with its lanes spread over the cores."""

    fills_cpu: ClassVar[bool] = True


def test_lanes_on_cores_can_be_stopped_too(
    straight, env, make_config, few_rows, monkeypatch, tmp_path, same
):
    agent = Busy(spec=env.spec)
    config = make_config(agent=agent)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 23)
        with pytest.raises(training.Interrupted):
            run(agent, env, config, tmp_path / "run")
    run(agent, env, config, tmp_path / "run")
    run_dir, _ = straight
    assert same(final(agent, env, config, tmp_path / "run"), final(agent, env, config, run_dir))
    assert rows(tmp_path / "run") == rows(run_dir)


def test_steps_are_the_environments_own_when_actions_repeat(
    agent, env, make_config, few_rows, tmp_path
):
    repeating = envs.make(env, action_repeat=2)
    config = make_config(env=repeating)
    summary = run(agent, repeating, config, tmp_path / "run")
    assert (summary["steps"], summary["action_repeat"]) == (STEPS, 2)
    assert summary["updates"] == 2 * 3 + 2 * 19  # half as many actions
    assert summary["replay_ratio"] == pytest.approx(20 * 44 / (STEPS / 2))
    assert [row["step"] for row in metrics.read(tmp_path / "run", "eval")][-1] == STEPS
    with pytest.raises(UsageError, match="action_repeat: 2 → 1"):
        run(agent, env, make_config(), tmp_path / "run")


def test_evaluating_changes_no_training(straight, agent, env, make_config, tmp_path, same):
    config = make_config(eval_every=STEPS)
    run(agent, env, config, tmp_path / "run")
    run_dir, _ = straight
    assert same(
        final(agent, env, config, tmp_path / "run"), final(agent, env, make_config(), run_dir)
    )


def test_a_finished_run_is_left_alone(straight, agent, env, make_config, monkeypatch):
    run_dir, summary = straight
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    monkeypatch.setattr(program, "start", None)  # nothing may be computed
    assert run(agent, env, make_config(), run_dir) == summary
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


def test_another_config_is_refused(straight, agent, env, make_config):
    run_dir, _ = straight
    with pytest.raises(UsageError, match=r"agent\.learning_rate: 0\.01 → 0\.5, seed: 3 → 5"):
        other = agent.replace(learning_rate=0.5)
        run(other, env, make_config(agent=other, seed=5), run_dir)


def test_a_folder_of_something_else_is_refused(agent, env, make_config, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="not a run folder"):
        run(agent, env, make_config(), tmp_path)
    with pytest.raises(UsageError, match="not a run folder"):
        run(agent, env, make_config(), tmp_path / "letter.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_what_a_killed_process_left_is_no_hindrance(agent, env, make_config, tmp_path, few_rows):
    (tmp_path / "partial-config.json").write_text("{")
    assert run(agent, env, make_config(), tmp_path)["steps"] == STEPS


def test_two_processes_do_not_share_a_folder(agent, env, make_config, tmp_path, few_rows):
    with runner._alone(tmp_path):
        with pytest.raises(UsageError, match="Another process trains in"):
            run(agent, env, make_config(), tmp_path)
        assert not any(tmp_path.iterdir())
    assert run(agent, env, make_config(), tmp_path)["steps"] == STEPS


def test_a_damaged_summary_is_said(agent, env, make_config, tmp_path, few_rows):
    summary = run(agent, env, make_config(), tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(UsageError, match="remove it"):
        run(agent, env, make_config(), tmp_path)
    (tmp_path / "summary.json").unlink()
    assert run(agent, env, make_config(), tmp_path)["returns"] == summary["returns"]


def test_too_large_a_run_is_refused_before_it_begins(
    agent, env, make_config, monkeypatch, tmp_path
):
    monkeypatch.setattr(memory, "available", lambda device: 1000)
    with pytest.raises(UsageError, match="KiB"):
        run(agent, env, make_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@struct.dataclass
class Poisoned(Toy):
    """Grows, and then its loss, or its parameters behind a sound loss, are NaN."""

    where: str = static("loss")

    def learn(self, state, key):
        state, _ = super().learn(state, key)
        params = 2.0 * state.params
        params = jnp.where(jnp.abs(params).sum() > 1e6, jnp.nan, params)
        if self.where == "loss":
            return state.replace(params=params), {"loss": params.sum()}
        return state.replace(params=params), {"steady": jnp.zeros(())}


@pytest.mark.parametrize("where", ["loss", "params"])
def test_nan_stops_the_run(env, make_config, monkeypatch, tmp_path, where, few_rows):
    monkeypatch.setattr(runner, "SAVING_SHARE", 1e9)  # a checkpoint after every chunk
    wild = Poisoned(spec=env.spec, where=where)
    config = make_config(agent=wild)
    with pytest.raises(training.TrainingDiverged, match=f"{where} became NaN or inf") as error:
        run(wild, env, config, tmp_path / "run", checkpoint_every=0.0)
    newest = checkpoints.latest(tmp_path / "run" / "checkpoints")
    assert str(newest) in str(error.value)
    assert checkpoints.manifest(newest)["step"] < STEPS
    assert not (tmp_path / "run" / "summary.json").exists()


def test_tensorboard_is_written(agent, env, make_config, tmp_path, few_rows):
    pytest.importorskip("tensorboardX")
    run(agent, env, make_config(steps=100), tmp_path / "run", tensorboard=True)
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
