"""Runs in environments that Python steps: the numbers of the one program, through stops too."""

import contextlib
import dataclasses
import signal
from functools import partial
from typing import ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from PIL import Image

import dreamerzero as dz
from dreamerzero import agents, cli, envs, training
from dreamerzero.envs.probes import BothEndsProbe
from dreamerzero.training import checkpoints, dreams, hosting, metrics, program, runner
from dreamerzero.training import config as configs
from dreamerzero.types import Discrete, UsageError
from dreamerzero.viz import video
from tests.envs.test_host import mujoco
from tests.toy import Toy
from tests.training.test_runner import interrupt_at

SMALL = {
    "num_envs": 2,
    "batch_size": 16,
    "train_ratio": 16.0,
    "capacity": 500,
    "prefill": 40,
    "layers": 1,
    "units": 8,
}
PENDULUM = "gymnasium/Pendulum-v1"


class BothEnds(gymnasium.Env):
    """`BothEndsProbe` once more."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (3,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.eye(3)[0], {}

    def step(self, action):
        self.time += 1
        over = self.time == 3
        return np.eye(3)[min(self.time, 2)], 1.0, over, over, {}


class Stuck(BothEnds):
    """Holds what cannot be saved."""

    def __init__(self):
        self.thing = (number for number in range(3))


class Echo(gymnasium.Env):
    """Four steps; rewards action 1 with what is shown, which is random."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,))
    action_space = gymnasium.spaces.Discrete(2)
    metadata: ClassVar[dict] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        return np.full((8, 12, 3), int(255 * self.shown), np.uint8)

    def _show(self):
        self.shown = self.np_random.uniform()
        return np.array([self.shown])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._show(), {}

    def step(self, action):
        self.time += 1
        reward = self.shown * action
        return self._show(), reward, False, self.time == 4, {}


def here(kind):
    return f"{__name__}:{kind.__name__}"


def config_of(agent, env, steps, **settings):
    config = configs.make("sac", agent, env, steps, **settings)
    return dataclasses.replace(config, eval_episodes=2)


def final(agent, env, config, run_dir):
    """The state that a finished run has saved."""
    shapes = jax.eval_shape(runner.start, agent, env, config.keys())
    newest = checkpoints.latest(run_dir / "checkpoints")
    return checkpoints.restore(newest, shapes, at=".state")


def stopped(monkeypatch, agent, env, config, run_dir, done):
    """Runs up to that iteration, one a chunk, where a signal arrives."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, done, signal.SIGTERM)
        with pytest.raises(training.Interrupted):
            runner.run(agent, env, config, run_dir, quiet=True)


@struct.dataclass
class Busy(Toy):
    """The toy with its lanes spread over the cores."""

    fills_cpu: ClassVar[bool] = True


@pytest.mark.parametrize("kind", [Toy, Busy])
def test_the_host_and_the_program_agree(kind, tmp_path, same):
    """The same world, once stepped inside of the program and once by Python."""
    rows, states = {}, {}
    for name in (here(BothEnds), f"{BothEndsProbe.__module__}:BothEndsProbe"):
        env = envs.make(name)
        agent = kind(spec=env.spec, epsilon=0.0)  # it draws no numbers
        config = configs.make("toy", agent, env, 200, seed=3, num_seeds=2)
        runner.run(agent, env, config, tmp_path / name, quiet=True)
        states[name] = final(agent, env, config, tmp_path / name)
        rows[name] = [
            [(row["step"], row.get("metrics"), row.get("returns")) for row in found]
            for kind in ("train", "eval")
            if (found := metrics.read(tmp_path / name, kind))
        ]
    assert isinstance(envs.make(here(BothEnds)), envs.HostEnv)
    ours, theirs = states.values()
    assert same(ours.agent, theirs.agent)
    assert same(
        (ours.timestep, ours.episode_return, ours.episode_length),
        (theirs.timestep, theirs.episode_return, theirs.episode_length),
    )
    assert len({str(found) for found in rows.values()}) == 1


def agent_in(env):
    if isinstance(env.spec.action, Discrete):
        return Toy(spec=env.spec)
    return agents.make("sac", env, "xs", **SMALL)


@pytest.mark.parametrize("name", [here(Echo), pytest.param("Hopper-v5", marks=mujoco)])
def test_a_killed_run_goes_on_to_the_bit(name, monkeypatch, tmp_path, same):
    env = envs.make(name)
    agent = agent_in(env)
    config = config_of(agent, env, 240, seed=3, num_seeds=2)
    runner.run(agent, env, config, tmp_path / "straight", quiet=True)
    stopped(monkeypatch, agent, env, config, tmp_path / "killed", done=10)
    runner.run(agent, env, config, tmp_path / "killed", quiet=True)
    straight, killed = (final(agent, env, config, tmp_path / run) for run in ("straight", "killed"))
    assert same(straight, killed)
    rows = [metrics.read(tmp_path / run, "train") for run in ("straight", "killed")]
    assert [row["metrics"] for row in rows[0]] == [row["metrics"] for row in rows[1]]
    assert sum(row["metrics"]["episodes"][0] for row in rows[0] if "episodes" in row["metrics"]) > 1


def test_what_cannot_be_saved_begins_new_episodes(monkeypatch, tmp_path):
    env = envs.make(here(Stuck))
    agent = agent_in(env)
    config = config_of(agent, env, 100)
    stopped(monkeypatch, agent, env, config, tmp_path / "run", done=1)
    before = final(agent, env, config, tmp_path / "run")
    np.testing.assert_array_equal(before.episode_length, 5 % 3)
    runner.run(agent, env, config, tmp_path / "run", quiet=True)
    after = final(agent, env, config, tmp_path / "run")
    # 25 steps of 4 environments: 5, and 20 from a new beginning.
    np.testing.assert_array_equal(after.episode_length, 20 % 3)
    np.testing.assert_array_equal(after.timestep.observation.argmax(axis=-1), 20 % 3)


def test_no_return_runs_over_a_new_beginning(monkeypatch, tmp_path):
    env = envs.make(here(Stuck))
    sizes = {"num_envs": 2, "capacity": 400, "units": 8, "batch_size": 4, "prefill": 10}
    agent = agents.make("dqn", env, **sizes)
    config = configs.make("dqn", agent, env, 200)
    stopped(monkeypatch, agent, env, config, tmp_path / "run", done=2)
    stored = final(agent, env, config, tmp_path / "run").agent.replay.streams
    newest = 0, jnp.arange(2), stored.head[0] - 1
    assert not stored.frames.is_last[newest].any()
    runner.run(agent, env, config, tmp_path / "run", quiet=True)
    frames = final(agent, env, config, tmp_path / "run").agent.replay.streams.frames
    assert frames.is_last[newest].all() and not frames.is_terminal[newest].any()
    follows = 0, jnp.arange(2), stored.head[0]
    assert frames.is_first[follows].all()


def test_lanes_are_single_runs(tmp_path, same):
    """Also where each environment has random numbers of its own."""
    env = envs.make(here(Echo))
    agent = Toy(spec=env.spec)
    states = {}
    for seeds in (range(3, 6), range(4, 5)):
        config = configs.make("toy", agent, env, 100, seed=seeds[0], num_seeds=len(seeds))
        run_dir = tmp_path / str(len(seeds))
        runner.run(agent, env, config, run_dir, quiet=True)
        states[len(seeds)] = final(agent, env, config, run_dir)
    lane, single = (jax.tree.map(lambda leaf, i=i: leaf[i], states[n]) for n, i in ((3, 1), (1, 0)))
    np.testing.assert_array_equal(lane.timestep.observation, single.timestep.observation)
    np.testing.assert_allclose(lane.agent.params, single.agent.params, rtol=1e-5)
    assert len(np.unique(states[3].timestep.observation)) == 3 * 4  # all environments differ


def test_a_step_of_a_lone_lane_does_not_copy_the_replay():
    env, keys = envs.make(PENDULUM), jax.random.key(3)[None]
    agent = agents.make("sac", env, **SMALL | {"num_envs": 1, "capacity": 50_000})
    phase = agent.phases(1_000)[-1]
    with contextlib.closing(envs.HostEnvs(env, 1, agent.num_envs)) as around:
        state = hosting.begin(around, runner.start(agent, env, keys), keys)
        seen = hosting.collect(
            lambda _, function, *args, **static: partial(function, **static),
            *(agent, around, phase, state),
        )
    sums = {name: jnp.zeros(1) for name in program.measured(agent, phase, state)}
    carry = runner.Carry(state, sums)
    compiled = hosting.absorb.lower(agent, phase, carry, seen).compile()
    replay = sum(leaf.nbytes for leaf in jax.tree.leaves(state.agent.replay))
    assert compiled.memory_analysis().temp_size_in_bytes < replay / 10


def test_evaluation_is_a_loop_over_episodes():
    env = envs.make(here(Echo))
    agent, key = Toy(spec=env.spec), jax.random.key(5)
    params = jnp.array([[1.0, 1.5], [0.3, 0.0]])  # chooses 1 from 0.6 on
    returns = dz.evaluate(agent, params, env, key, episodes=20)
    expected = []
    for seed in np.asarray(hosting.seeds(key[None], 20))[0]:
        alone, total, over = Echo(), 0.0, False
        observation, _ = alone.reset(seed=int(seed))
        while not over:
            observation, reward, _, over, _ = alone.step(int(observation[0] > 0.6))
            total += reward
        expected.append(total)
    np.testing.assert_allclose(returns, expected, rtol=1e-5)
    assert np.std(expected) > 0.1
    assert np.isnan(dz.evaluate(agent, params, env, key, episodes=3, limit=3)).all()
    lanes = jnp.stack([params, params[:, ::-1]])
    both = training.evaluation.evaluate_lanes(agent, lanes, env, jnp.stack([key, key]), episodes=20)
    np.testing.assert_allclose(both[0], expected, rtol=1e-5)
    assert not np.allclose(both[1], expected)


def test_one_pure_function_is_refused():
    env = envs.make(PENDULUM)
    with pytest.raises(UsageError, match=r"dreamerzero train … --env gymnasium/Pendulum-v1"):
        dz.train(agent_in(env), env, jax.random.key(0), steps=100)


def test_an_episode_is_filmed(tmp_path):
    env = envs.make(here(Echo))
    agent, gif = Toy(spec=env.spec), tmp_path / "echo.gif"
    params = jnp.array([[0.0, 0.0], [0.0, 1.0]])  # always 1
    shown = video.record(agent, params, env, jax.random.key(5), gif)
    alone = Echo()
    observation, _ = alone.reset(seed=int(hosting.seeds(jax.random.key(5)[None], 1)[0, 0]))
    rewards = [observation[0], *(alone.step(1)[0][0] for _ in range(3))]
    np.testing.assert_allclose(shown, np.sum(rewards), rtol=1e-5)
    with Image.open(gif) as pictures:
        assert pictures.n_frames == 4


def test_the_command_line(tmp_path, monkeypatch, capsys):
    """SAC on gymnasium's pendulum."""
    monkeypatch.chdir(tmp_path)
    options = [f"--agent.{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    settings = ["--steps", "1200", "--num-seeds", "2", "--action-repeat", "2", "--quiet"]
    assert cli.main(["train", "sac", "--env", PENDULUM, *settings, *options]) == 0
    run_dir = tmp_path / "runs" / "sac-gymnasium.Pendulum-v1-s0-1"
    last = metrics.read(run_dir, "train")[-1]
    assert last["step"] == 1200 and last["updates"] > 0
    # Two environments of 300 actions each, whose episodes are 200 steps: 100 actions.
    ended = [row["metrics"]["episodes"][0] for row in metrics.read(run_dir, "train")]
    assert sum(ended) == 2 * 3
    assert dz.load(run_dir, seed=1)[2].action_repeat == 2
    assert cli.main(["eval", str(run_dir), "--episodes", "3"]) == 0
    assert "over 2 seeds × 3 episodes" in capsys.readouterr().out
    assert cli.main(["dream", str(run_dir), "--json"]) == 2
    assert cli.main(["train", "dqn", "--env", PENDULUM, "--steps", "9"]) == 2
    assert cli.main(["envs"]) == 0
    assert PENDULUM in capsys.readouterr().out.split()


def test_no_dreams_on_the_host():
    env = envs.make(PENDULUM)
    with pytest.raises(UsageError, match="stepped by Python"):
        dreams.require("dreamer", agents.make("dreamer", env, "xs"), env)
