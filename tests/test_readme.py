"""What the README says is run: its commands in order, then its Python from top to bottom."""

import io
import re
import sys
from pathlib import Path

import pytest

from dreamerzero import cli
from dreamerzero.agents import AGENTS
from tests.test_cli import DREAMER, GAME, SHORT

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


COMMANDS = [
    line.split("#")[0].split()
    for block in blocks("bash")
    for line in block.splitlines()
    if line.startswith("dreamerzero ")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the README's commands have been run."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "corridor.py").write_text(next(b for b in blocks("python") if "# corridor.py" in b))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(sys, "stdin", io.StringIO("b2\n\n"))  # a move, and giving up
        # In place of what `make demo` leaves, and of what takes minutes.
        assert exit_code((*DREAMER, *SHORT, "--run-dir", "runs/demo")) == 0
        assert exit_code((*GAME, "--run-dir", "runs/tictactoe")) == 0
        for command in COMMANDS:
            assert exit_code(command[1:]) == 0, " ".join(command)
    return folder


def exit_code(arguments):
    try:
        return cli.main(arguments)
    except SystemExit as stop:  # `--help`
        return stop.code


def test_the_commands_leave_what_is_promised(folder):
    assert len(COMMANDS) > 5
    for run in ("maze", "plain", "corridor"):
        files = {path.name for path in (folder / "runs" / run).iterdir()}
        assert {"config.json", "metrics.jsonl", "checkpoints", "curve.png", "summary.json"} <= files
    assert (folder / "runs" / "maze" / "video.gif").stat().st_size > 1000
    assert (folder / "runs" / "planning.png").stat().st_size > 1000
    assert (folder / "runs" / "tictactoe" / "game.svg").stat().st_size > 1000
    assert {"dream.png", "dream.gif"} <= {path.name for path in (folder / "runs/demo").iterdir()}


def test_the_python_runs_from_top_to_bottom(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    namespace = {"__name__": "readme"}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    *_, maze_return, wandered, shape, actions = capsys.readouterr().out.splitlines()
    assert float(maze_return) == 1.0  # the trained agent finds the goal
    assert float(wandered) == 800
    assert shape == "(15, 32)"
    assert re.fullmatch(r"\[[01] [01] [01] [01]\]", actions)


def test_the_targets_exist():
    wanted = set(re.findall(r"\bmake (\w+)", "".join(blocks("bash"))))
    assert {"demo", "test", "lint", "bench"} <= wanted
    assert wanted <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_agent_is_in_the_lineage():
    rows = {line.split("|")[1].strip(" `"): line for line in README.splitlines() if "|" in line}
    for name, row in rows.items():
        assert ("**here**" in row) == (name in AGENTS)
    assert set(AGENTS) <= set(rows)


def test_every_preset_is_explained():
    for preset in AGENTS["dreamer"].PRESETS:
        assert f"| `{preset}` |" in README
