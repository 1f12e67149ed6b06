"""The command line: every command, every mistake it answers, and a kill in the middle."""

import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from dreamerzero import cli
from dreamerzero.agents import AGENTS
from dreamerzero.training import metrics
from tests.toy import Toy

ROOT = Path(__file__).parents[1]
DYNA = ("train", "dyna", "--env", "DynaMaze-v0", "--agent.planning-steps", "2")
DREAMER = (
    *("train", "dreamer", "--env", "CartPole-v1", "--preset", "xs", "--agent.train-ratio", "8"),
    *("--agent.batch-size", "4", "--agent.batch-length", "8", "--agent.deter", "16"),
    *("--agent.hidden", "8", "--agent.stoch", "2", "--agent.units", "8", "--agent.bins", "9"),
)
# Two seeds, as where it is killed: the same programs, compiled once for all.
SHORT = ("--steps", "400", "--eval-every", "400", "--num-seeds", "2")
GAME = (
    *("train", "muzero", "--env", "TicTacToe-pgx", "--preset", "board", "--num-seeds", "2"),
    *("--steps", "1200", "--eval-every", "600", "--agent.num-envs", "4", "--agent.td-steps", "9"),
    *("--agent.batch-size", "8", "--agent.simulations", "2", "--agent.latent", "8"),
    *("--agent.layers", "1", "--agent.units", "8"),
)


ENVIRON = os.environ | {"PYTHONPATH": str(ROOT)}  # of a command in a process of its own


class Said(NamedTuple):
    stdout: str
    stderr: str


def dreamerzero(*argv, code=0):
    """Runs a command in this process, which has imported and compiled much already."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert cli.main([*map(str, argv)]) == code, err.getvalue()
    return Said(out.getvalue(), err.getvalue())


def refused(*argv):
    """Runs a command that cannot be, and returns the sentence it is refused with."""
    heard = dreamerzero(*argv, code=2)
    assert heard.stdout == ""
    assert re.fullmatch(r"dreamerzero: [^\n]+\n", heard.stderr), heard.stderr
    assert "Traceback" not in heard.stderr
    return heard.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "dyna"
    ran = dreamerzero(*DYNA, "--steps", 600, "--num-seeds", 2, "--run-dir", run_dir)
    return run_dir, ran


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_train(trained):
    run_dir, ran = trained
    assert {path.name for path in run_dir.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "curve.png",
        "summary.json",
    }
    summary = json.loads((run_dir / "summary.json").read_text())
    assert {"agent", "env", "steps", "num_seeds", "return_mean", "return_std", "returns"} <= {
        *summary
    }
    assert {"wall_s", "compile_s", "env_steps_per_s"} <= {*summary}
    assert (summary["agent"], summary["env"], summary["steps"]) == ("dyna", "DynaMaze-v0", 600)
    assert re.match(r"dyna on DynaMaze-v0: return .* over 2 seeds × 32 episodes", ran.stdout)
    assert "compiling train" in ran.stderr


def test_the_same_again_and_resume_show_the_result(trained):
    run_dir, ran = trained
    before = contents(run_dir / "checkpoints")
    resumed = dreamerzero("train", "--run-dir", run_dir, "--resume")
    assert resumed.stdout == ran.stdout
    assert contents(run_dir / "checkpoints") == before


def test_eval(trained, tmp_path):
    run_dir, _ = trained
    gif = tmp_path / "videos" / "episode.gif"
    ran = dreamerzero("eval", run_dir, "--episodes", 4, "--json", "--video", gif)
    result = json.loads(ran.stdout)
    assert (result["episodes"], len(result["returns"])) == (4, 2)
    assert gif.read_bytes().startswith(b"GIF8")


def test_a_video_of_another_kind_is_refused_before_anything_is_played(trained, monkeypatch):
    monkeypatch.setattr("dreamerzero.training.evaluation.evaluate_lanes", None)
    said = refused("eval", trained[0], "--video", "episode.mp4")
    assert "videos of DynaMaze-v0 are GIFs, so end its name in .gif." in said


@pytest.fixture(scope="module")
def game(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "game"
    dreamerzero(*GAME, "--run-dir", run_dir)
    return run_dir


def test_games_are_counted_on_both_sides(game):
    ran = dreamerzero("eval", game, "--episodes", 8, "--json")
    result = json.loads(ran.stdout)
    assert result["opponent"] == "random"
    for side in ("first", "second"):
        assert [sum(counts) for counts in result[side]] == [8, 8]
    won, _, lost = map(sum, zip(*(result[side][0] for side in ("first", "second"))))
    assert result["returns"][0] == pytest.approx((won - lost) / 16)
    said = dreamerzero("eval", game, "--episodes", 8).stdout
    assert re.search(r"moving first: \d+ won, \d+ drawn, \d+ lost", said)


def test_the_ladder_has_a_rung_for_every_evaluation(game):
    ran = dreamerzero("eval", game, "--episodes", 4, "--opponent", "past", "--json")
    evaluations = [row["step"] for row in diary(game) if row["kind"] == "eval"]
    ladder = json.loads(ran.stdout)["ladder"]
    assert [rung["step"] for rung in ladder] == evaluations
    assert len(ladder) >= 2
    assert ladder[0]["elo"] == 0.0


def test_games_that_cannot_be_played(trained):
    assert "no game for two" in refused("eval", trained[0], "--opponent", "random")
    assert "no game for two" in refused("eval", trained[0], "--opponent", "past")
    assert "cannot be played here" in refused("play", trained[0])


def test_plot(trained, tmp_path):
    run_dir, _ = trained
    dreamerzero("plot", run_dir, run_dir, "--out", tmp_path / "both.png")
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def dreamer(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "dreamer"
    dreamerzero(*DREAMER, *SHORT, "--run-dir", run_dir)
    return run_dir


def test_dream(dreamer, tmp_path):
    assert (dreamer / "dream.png").read_bytes().startswith(b"\x89PNG")
    gif = tmp_path / "dreams" / "dream.gif"
    ran = dreamerzero("dream", dreamer, "--out", gif, "--json", "--seed", 1)
    assert gif.read_bytes().startswith(b"GIF8")
    result = json.loads(ran.stdout)
    (row,) = metrics.read(dreamer, "dream")
    assert row["metrics"].keys() == result["metrics"].keys()
    assert result["metrics"]["prediction_error/1"] > 0
    assert {"copy_error/45", "reward_error/15", "value", "return"} <= result["metrics"].keys()
    assert "error" in dreamerzero("dream", dreamer, "--out", gif).stdout


def test_dreams_that_cannot_be(trained, dreamer, tmp_path):
    assert "dreamer" in refused("dream", trained[0], "--json")
    assert "in .png or .gif" in refused("dream", dreamer, "--out", tmp_path / "dream.mp4")


def test_agents_and_envs():
    agents = dreamerzero("agents").stdout
    assert all(re.search(rf"^{name} ", agents, re.M) for name in AGENTS)
    assert {"DynaMaze-v0", "CartPole-v1"} <= {*dreamerzero("envs").stdout.split()}


def test_help_needs_no_jax():
    code = "import sys, dreamerzero.cli as c; c.main(['--help']); sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRON, capture_output=True)


@pytest.mark.parametrize("name", AGENTS)
def test_help_lists_every_field_with_its_meaning(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", name, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    listed = set(re.findall(r"--agent\.([a-z0-9-]+)", shown))
    fields = {field.name for field in dataclasses.fields(AGENTS[name])} - {"spec"}
    assert listed == {field.strip("_").replace("_", "-") for field in fields}
    docs = cli.field_docs(AGENTS[name])
    assert not [field for field in fields if not docs[field]]


def test_field_docs():
    docs = cli.field_docs(Toy)
    assert docs["num_envs"] == "Parallel environments."
    assert docs["collect"] == "Steps between two updates."
    assert docs["learning_rate"] == "Step size of the update."


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trian"], "Unknown command 'trian'"),
        (["train"], "Name an agent first"),
        (["train", "dina", "--env", "x"], "Unknown agent 'dina'. Did you mean dyna"),
        (["train", "dyna", "--env", "DynaMase-v0", "--steps", "9"], "Nearest: DynaMaze-v0"),
        (["train", "dyna", "--env", "os:path", "--steps", "9"], "Cannot build environment"),
        (["train", "dyna", "--steps", "9"], "--env"),
        (["train", "dyna", "--env", "DynaMaze-v0", "--steps", "many"], "--steps"),
        (["train", "dyna", "--env", "DynaMaze-v0", "--steps", "0"], "steps is 0"),
        (["train", "dyna", "--env", "DynaMaze-v0", "--preset", "xxl"], "Unknown preset 'xxl'"),
        ([*DYNA, "--steps", "9", "--agent.epsilom", "1"], "Did you mean --agent.epsilon"),
        ([*DYNA, "--steps", "9", "--agent.epsilon", "small"], "--agent.epsilon"),
        ([*DYNA, "--steps", "9", "--agent.planning-steps", "2.5"], "--agent.planning-steps"),
        ([*DYNA, "--steps", "9", "--num-sees", "2"], "Did you mean --num-seeds"),
        ([*DYNA, "--steps", "9", "--checkpoint-every", "nan"], "--checkpoint-every is nan"),
        (["train", "dyna", "--env", "Pendulum-v1", "--steps", "9"], "discrete actions"),
        (["train", "dyna", "--env", "MNISTBandit-bsuite", "--steps", "9"], "not available"),
        (["train", "--resume"], "--run-dir"),
        (["train", "--resume", "--run-dir", "/nowhere"], "not a run folder"),
        (["eval"], "run folder"),
        (["eval", "/nowhere"], "not a run folder"),
        (["eval", "/nowhere", "--episodes", "0"], "--episodes is 0"),
        (["dream", "/nowhere"], "--out FILE.gif, --json, or both"),
        (["dream", "/nowhere", "--json"], "not a run folder"),
        (["plot", "--out", "x.png"], "run folder"),
        (["plot", "/nowhere", "--out", "x.png"], "/nowhere"),
        (["envs", "--all"], "Unknown option '--all'"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_mistakes_are_one_sentence(argv, said):
    assert said in refused(*argv)


def test_a_mistake_exits_with_2():
    argv = ("train", "dyna", "--env", "DynaMaze", "--steps", "9")
    command = [sys.executable, "-m", "dreamerzero", *argv]
    ran = subprocess.run(command, capture_output=True, text=True, env=ENVIRON)
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert "Traceback" not in ran.stderr


def test_another_runs_folder_is_left_alone(trained):
    run_dir, _ = trained
    before = contents(run_dir)
    said = refused(*DYNA, "--steps", 700, "--num-seeds", 2, "--run-dir", run_dir)
    assert "steps: 600 → 700" in said
    assert contents(run_dir) == before


def test_a_damaged_checkpoint(trained, tmp_path):
    run_dir = shutil.copytree(trained[0], tmp_path / "run")
    (run_dir / "summary.json").unlink()
    for path in (run_dir / "checkpoints").rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            path.write_bytes(path.read_bytes()[:-1])
    before = contents(run_dir)
    assert "is damaged" in refused("eval", run_dir)
    assert "is damaged" in refused("train", "--resume", "--run-dir", run_dir, "--quiet")
    assert contents(run_dir) == before


def test_a_folder_that_cannot_be_written(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    # Root may write anywhere but in the kernel's own folders.
    parent = closed if not os.access(closed, os.W_OK) else Path("/proc")
    said = refused(*DYNA, "--steps", 100, "--run-dir", parent / "run", "--quiet")
    assert str(parent) in said


def test_a_full_disk(tmp_path):
    """No file may grow above a few blocks: the run ends with a sentence, as on a full disk."""
    argv = [sys.executable, "-m", "dreamerzero", *DYNA, "--steps", "3000", "--quiet"]
    ran = subprocess.run(
        ["sh", "-c", 'ulimit -f 16; exec "$@"', "sh", *argv, "--run-dir", tmp_path / "run"],
        capture_output=True,
        text=True,
        env=ENVIRON | {"DREAMERZERO_CACHE": str(tmp_path / "cache")},
    )
    assert ran.returncode == 2, ran
    assert re.fullmatch(r"dreamerzero: [^\n]+\n", ran.stderr), ran.stderr


WRONG = """
from dreamerzero.envs.probes import Probe
from gymnax.environments import spaces

class Wrong(Probe):
    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (7,))

class Right(Probe):
    num_symbols = 3
"""


def test_environments_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_envs.py").write_text(WRONG)
    monkeypatch.syspath_prepend(tmp_path)
    said = refused("train", "dyna", "--env", "my_envs:Wrong", "--steps", 9)
    assert "observation of shape (1,)" in said
    assert "declares (7,)" in said


def wait_for(condition, process, seconds=300):
    """Until then, or until the process has ended by itself."""
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.parametrize(
    "command", [(*DYNA, "--steps", 200_000), (*DREAMER, "--steps", 2_000)], ids=["dyna", "dreamer"]
)
def test_killed_and_resumed_is_uninterrupted(command, tmp_path):
    argv = (*command, "--num-seeds", 2, "--checkpoint-every", 0, "--run-dir")
    start = lambda: subprocess.Popen(  # noqa: E731
        [sys.executable, "-m", "dreamerzero", *map(str, argv), tmp_path / "killed"],
        env=ENVIRON,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path / "killed" / "checkpoints"
    saved = lambda: {path.name for path in folder.glob("*[0-9]")}  # noqa: E731

    process = start()
    wait_for(lambda: len(saved()) > 1, process)
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed" / "summary.json").exists(), "it had ended before the kill"
    first = saved()

    process = start()
    wait_for(lambda: saved() - first, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 143, said
    assert "repeat the command to go on" in said

    dreamerzero(*argv, tmp_path / "killed")
    dreamerzero(*argv, tmp_path / "straight")
    states = [final_arrays(tmp_path / name) for name in ("killed", "straight")]
    assert states[0].keys() == states[1].keys()
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name], err_msg=name)
    assert diary(tmp_path / "killed") == diary(tmp_path / "straight")


def final_arrays(run_dir):
    import orbax.checkpoint as ocp

    newest = max((run_dir / "checkpoints").iterdir())
    with ocp.PyTreeCheckpointer() as checkpointer:
        return checkpointer.restore(newest)


def diary(run_dir):
    """metrics.jsonl without what the clock said."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.endswith("_s")} for line in lines]
