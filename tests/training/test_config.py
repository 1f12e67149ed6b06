"""config.json: enough to have agent and environment back, and to tell two runs apart."""

import dataclasses
import json

import numpy as np
import pytest
from flax import struct

from dreamerzero import agents, envs
from dreamerzero.envs.probes import MemoryProbe
from dreamerzero.training import config as configs
from dreamerzero.training import evaluate, runner
from dreamerzero.types import UsageError, static
from tests.toy import Toy


@struct.dataclass
class Layered(Toy):
    """The toy with a field that JSON has no word for."""

    layers: tuple = static((4, 4))

    @classmethod
    def default_preset(cls, backend):
        return "default"

    def check(self):
        pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(agents.AGENTS, "layered", Layered)
        env = envs.make(MemoryProbe())
        agent = agents.make("layered", env, layers=(3, 2), learning_rate=0.02)
        run_dir = tmp_path_factory.mktemp("trained") / "run"
        config = configs.make("layered", agent, env, 100, seed=7, num_seeds=2)
        runner.run(agent, env, config, run_dir, quiet=True)
        yield run_dir, agent, config


def test_it_comes_back(trained):
    run_dir, agent, config = trained
    read = configs.read(run_dir)
    assert configs.differences(config, read) == ""
    rebuilt, env = configs.build(read)
    assert (rebuilt, env.spec) == (agent, agent.spec)
    assert isinstance(hash(rebuilt.layers), int)
    assert env.action_repeat == 1
    assert configs.build(dataclasses.replace(read, action_repeat=3))[1].action_repeat == 3


def test_a_config_from_before_actions_could_repeat(trained, tmp_path):
    _, _, config = trained
    written = dataclasses.asdict(config)
    del written["action_repeat"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert configs.differences(config, configs.read(tmp_path)) == ""


def test_fields_from_after_a_run_are_named(trained):
    _, _, config = trained
    fields = {name: value for name, value in config.fields.items() if name != "learning_rate"}
    with pytest.warns(UserWarning, match="knew nothing of learning_rate"):
        configs.build(dataclasses.replace(config, fields=fields))


def test_differences_are_named(trained):
    _, _, config = trained
    other = dataclasses.replace(
        config, steps=5, fields=config.fields | {"layers": (1,)}, preset="x", version="y"
    )
    assert configs.differences(config, other) == "agent.layers: [3, 2] → [1], steps: 100 → 5"
    other = dataclasses.replace(other, agent="dreamer", steps=config.steps)
    assert configs.differences(config, other) == f"agent: {config.agent} → dreamer"


def test_load_after_the_folder_moved(trained, tmp_path):
    run_dir, agent, config = trained
    moved = run_dir.rename(tmp_path / "elsewhere")
    try:
        loaded, first, env = configs.load(moved)
        _, second, _ = configs.load(str(moved), seed=8)
        both = configs.load_params(moved, config, agent, env)
        mine = configs.load(moved, env=MemoryProbe())
        with pytest.raises(UsageError, match="7 … 8; got 9"):
            configs.load(moved, seed=9)
    finally:
        moved.rename(run_dir)
    assert loaded == agent
    np.testing.assert_array_equal(np.stack([first, second]), both)
    np.testing.assert_array_equal(mine[1], first)
    assert evaluate(loaded, first, env, config.keys()[0], episodes=3).shape == (3,)


def test_no_run_no_load(tmp_path):
    with pytest.raises(UsageError, match="not a run folder"):
        configs.load(tmp_path)


def test_a_run_without_a_checkpoint(trained, tmp_path):
    _, _, config = trained
    config.write(tmp_path)
    with pytest.raises(UsageError, match="no checkpoint yet"):
        configs.load(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"agent": "toy"}', {"num_seeds": "2"}])
def test_a_damaged_config(trained, tmp_path, content):
    if isinstance(content, dict):
        content = json.dumps(dataclasses.asdict(trained[-1]) | content)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError, match="cannot be read"):
        configs.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"num_seeds": 0}, "num_seeds is 0"),
        ({"eval_every": -1}, "eval_every is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**31}, "seed is"),
    ],
)
def test_impossible_numbers(make_config, changes, said):
    with pytest.raises(UsageError, match=said):
        make_config(**changes)


def test_everything_is_plain_json(trained):
    run_dir, _, _ = trained
    written = json.loads((run_dir / "config.json").read_text())
    assert written["fields"]["layers"] == [3, 2]
    assert (written["env"], written["num_seeds"]) == ("dreamerzero.envs.probes:MemoryProbe", 2)
