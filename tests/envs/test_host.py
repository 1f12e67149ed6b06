"""Environments on the host do what gymnasium's own loop does, and can be stopped in between."""

import importlib.util
import multiprocessing
import sys
from typing import ClassVar

import gymnasium
import jax
import numpy as np
import pytest

from dreamerzero import envs
from dreamerzero.envs import host
from dreamerzero.types import Box, Discrete, UsageError

mujoco = pytest.mark.skipif(not importlib.util.find_spec("mujoco"), reason="needs mujoco")
box2d = pytest.mark.skipif(not importlib.util.find_spec("Box2D"), reason="needs Box2D")
SEEDS = np.array([[3, 14, 15], [92, 65, 35]])


class Clock(gymnasium.Env):
    """Shows the time; at 3 it terminates, and is cut off in the same step. Rewards with the action
    that arrives, between bounds that differ."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(np.float32([0, -10]), np.float32([1, 30]))
    metadata: ClassVar[dict] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode=None):
        self.render_mode, self.time = render_mode, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.array([0.0, self.np_random.uniform()]), {}

    def step(self, action):
        self.time += 1
        over = self.time == 3
        reward = action[0] + 100 * action[1]
        return np.array([self.time, self.np_random.uniform()]), reward, over, over, {}

    def render(self):
        return np.full((8, 12, 3), 10 * self.time, np.uint8)


class Stuck(Clock):
    """Holds what cannot be saved, and cannot be drawn."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.thing = (i for i in range(3))

    def render(self):
        raise RuntimeError("no paint")


class Locked(Clock):
    """Holds what cannot be saved, for another reason."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.thing = multiprocessing.Lock()


class Strict(Clock):
    """Takes no action out of its bounds, to which rounding leads."""

    action_space = gymnasium.spaces.Box(np.float32([-2.0]), np.float32([0.7]))

    def step(self, action):
        assert self.action_space.contains(action)
        observation, _, *rest = super().step([0, 0])
        return observation, 0.0, *rest


class Whole(Clock):
    action_space = gymnasium.spaces.Box(-100, 100, (1,), np.int8)


class Generous(Clock):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, np.array([reward]), *rest


class Lame(Clock):
    action_space = gymnasium.spaces.Discrete(3, start=1)


class Talker(Clock):
    observation_space = gymnasium.spaces.Text(5)


class Seedless(Clock):
    def reset(self):
        return super().reset()


class Bare(Clock):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class Old(Clock):
    def step(self, action):
        observation, reward, over, _, info = super().step(action)
        return observation, reward, over, info


class Growing(Clock):
    def step(self, action):
        observation, *rest = super().step(action)
        return np.append(observation, 0.0), *rest


def name_of(kind):
    return f"{__name__}:{kind.__name__}"


def opened(name, seeds=SEEDS, **changes):
    env = envs.make(name, changes.get("action_repeat"))
    opened = envs.HostEnvs(env, *seeds.shape)
    opened.reset(seeds)
    return opened


def random_actions(spec, steps, shape, seed=0):
    rng = np.random.default_rng(seed)
    if isinstance(spec.action, Discrete):
        return rng.integers(spec.action.num, size=(steps, *shape)).astype(np.int32)
    return rng.uniform(-1.2, 1.2, (steps, *shape, *spec.action.shape)).astype(np.float32)


def test_ids_of_the_program_come_first():
    assert isinstance(envs.make("Pendulum-v1"), envs.Env)
    env = envs.make("gymnasium/Pendulum-v1")
    assert isinstance(env, envs.HostEnv) and env is envs.make("gymnasium/Pendulum-v1")
    assert env.name == "gymnasium/Pendulum-v1" and env.action_repeat == 1
    assert env.spec.observation == Box((3,), "float32", (-1.0, -1.0, -8.0), (1.0, 1.0, 8.0))
    assert env.spec.action == Box((1,), "float32", -1.0, 1.0)
    assert env.spec.termination is envs.make("Pendulum-v1").spec.termination
    assert envs.make("gymnasium/CartPole-v1").spec.action == Discrete(2)
    assert envs.make("FrozenLake-v1").spec.observation == Discrete(16)
    assert "gymnasium/Pendulum-v1" in host.names() and "Taxi-v4" in host.names()
    assert not {*host.names()} & {*envs.names()}


@mujoco
def test_mujoco_has_its_own_names():
    env = envs.make("HalfCheetah-v5")
    assert env.spec.observation == Box((17,)) and env.spec.action.shape == (6,)
    assert "HalfCheetah-v5" in host.names() and "HalfCheetah-v4" not in host.names()


@pytest.mark.parametrize("repeat", [1, 3])
@pytest.mark.parametrize(
    "name",
    [
        "gymnasium/CartPole-v1",
        "gymnasium/Pendulum-v1",
        name_of(Clock),
        pytest.param("Hopper-v5", marks=mujoco),
        pytest.param("Humanoid-v5", marks=mujoco),
        pytest.param("LunarLander-v3", marks=box2d),
    ],
)
def test_a_step_is_gymnasiums(name, repeat):
    """The oracle is gymnasium's own loop, in its own dtypes, one environment at a time."""
    several = opened(name, action_repeat=repeat)
    spec, steps = several.env.spec, 210
    actions = random_actions(spec, steps, SEEDS.shape)
    first = several.timestep
    trace = [several.step(action) for action in actions]
    met = set()
    for place in np.ndindex(SEEDS.shape):
        alone = Clock() if ":" in name else gymnasium.make(name.removeprefix("gymnasium/"))
        observation, _ = alone.reset(seed=int(SEEDS[place]))
        np.testing.assert_allclose(first.observation[place], observation, rtol=1e-6)
        assert first.is_first[place] and not first.is_last[place] and not first.reward[place]
        for action, (shown, came) in zip(actions[:, *place], trace, strict=True):
            if not isinstance(spec.action, Discrete):
                low, high = (
                    np.float64(b) for b in (alone.action_space.low, alone.action_space.high)
                )
                action = np.float32(low + (np.clip(action, -1, 1) + 1) * (high - low) / 2)
            reward = 0.0
            for _ in range(repeat):
                observation, gained, terminated, truncated, _ = alone.step(action)
                reward += gained
                if terminated or truncated:
                    break
            close = {"rtol": 1e-4, "atol": 1e-4}  # actions were rounded in another order
            np.testing.assert_allclose(came.observation[place], observation, **close)
            np.testing.assert_allclose(came.reward[place], reward, **close)
            assert (came.terminated[place], came.truncated[place]) == (terminated, truncated)
            assert not came.is_first[place]
            over = terminated or truncated
            met.add((bool(terminated), bool(truncated)))
            if over:
                observation, _ = alone.reset()
            np.testing.assert_allclose(shown.observation[place], observation, **close)
            assert shown.is_first[place] == over and not shown.is_last[place]
            assert shown.reward[place] == (0.0 if over else came.reward[place])
    ends = {name_of(Clock): (True, True), "gymnasium/Pendulum-v1": (False, True)}
    assert met == {(False, False), ends.get(name, (True, False))} or repeat == 3
    assert trace[0][0].observation.dtype == spec.observation.dtype
    assert trace[0][1].reward.dtype == np.float32 and trace[0][1].terminated.dtype == bool


def test_who_does_not_play_stands_still():
    several = opened("gymnasium/Pendulum-v1")
    before = several.timestep
    playing = SEEDS > 20
    shown, _ = several.step(np.zeros((2, 3, 1)), playing)
    still = np.all(shown.observation == before.observation, axis=-1)
    np.testing.assert_array_equal(still, ~playing)
    both, _ = opened("gymnasium/Pendulum-v1").step(np.zeros((2, 3, 1)))
    later, _ = several.step(np.zeros((2, 3, 1)), ~playing)
    np.testing.assert_array_equal(later.observation[~playing], both.observation[~playing])


@pytest.mark.parametrize(
    "name",
    [
        "gymnasium/CartPole-v1",
        "gymnasium/Pendulum-v1",
        pytest.param("Hopper-v5", marks=mujoco),
        pytest.param("Ant-v5", marks=mujoco),  # rewards with what was derived a step before
    ],
)
def test_what_was_saved_goes_on_to_the_bit(name):
    several = opened(name)
    actions = random_actions(several.env.spec, 120, SEEDS.shape)
    for action in actions[:37]:
        several.step(action)
    content, timestep = several.dump(), several.timestep
    further = [several.step(action) for action in actions[37:]]
    again = opened(name, seeds=SEEDS + 1)
    again.load(content, timestep)
    for action, expected in zip(actions[37:], further, strict=True):
        jax.tree.map(np.testing.assert_array_equal, again.step(action), expected)
    if name != "gymnasium/Pendulum-v1":  # whose episodes last 200 steps
        assert any(shown.is_first.any() for shown, _ in further)


@pytest.mark.parametrize("kind", [Stuck, Locked])
def test_what_cannot_be_saved_says_so(kind):
    assert opened(name_of(kind)).dump() is None


@pytest.mark.parametrize("action", [-1.0, 1.0])
def test_no_action_is_out_of_bounds(action):
    opened(name_of(Strict)).step(np.full((*SEEDS.shape, 1), action, np.float32))


def test_an_environment_of_ones_own_is_drawn():
    env = envs.make(name_of(Clock))
    assert env.frames_per_s == 10
    pictured = envs.HostEnvs(env, 1, 1, render_mode="rgb_array")
    pictured.reset(SEEDS[:1, :1])
    pictured.step(np.zeros((1, 1, 2)))
    assert pictured.draw().shape == (8, 12, 3) and pictured.draw().max() == 10


def test_what_cannot_be_drawn_is_explained():
    with pytest.raises(UsageError, match="cannot be drawn here: RuntimeError: no paint"):
        opened(name_of(Stuck)).draw()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("HalfCheetah-v2", "Cannot build environment 'HalfCheetah-v2'"),
        ("HalfCheeta-v5", "Unknown environment 'HalfCheeta-v5'"),
        ("gymnasium/Pendulum-v7", "Nearest: .*Pendulum-v1"),
        ("Blackjack-v1", "only Box and Discrete"),
        (name_of(Talker), "only Box and Discrete"),
        (name_of(Lame), "does not begin with 0"),
        (name_of(Seedless), "takes no seed"),
        (name_of(Bare), "returns no pair"),
        (name_of(Old), "no five things"),
        (name_of(Whole), "only Discrete and Box of floats can act"),
        (name_of(Generous), r"pays array\(.*Let a reward be a number"),
        (name_of(Growing), r"step shows shape \(3,\), its reset \(2,\)"),
    ],
)
def test_mistakes_are_explained(name, message):
    with pytest.raises(UsageError, match=message):
        envs.make(name)


@box2d
def test_car_racing_is_seen_and_driven_as_in_world_models():
    several, alone = opened("CarRacing-pixels", SEEDS[:1, :2]), gymnasium.make("CarRacing-v3")
    assert several.env.spec.observation == Box((64, 64, 3), "uint8", 0.0, 255.0)
    assert several.env.spec.action == Box((3,), "float32", -1.0, 1.0)
    assert "CarRacing-pixels" in host.names() and several.dump() is None
    alone.reset(seed=int(SEEDS[0, 0]))
    for action in random_actions(several.env.spec, 70, (1, 2)):
        _, came = several.step(action)
        steer, gas, brake = np.clip(action[0, 0], -1.0, 1.0)
        picture, reward, *_ = alone.step(np.array([steer, (gas + 1) / 2, max(brake, 0)]))
        np.testing.assert_allclose(came.reward[0, 0], reward, rtol=1e-5)
    # Twelve rows are left out; what is left has the same colours, part by part.
    small = np.float32(came.observation[0, 0]).reshape(4, 16, 4, 16, 3).mean(axis=(1, 3))
    whole = np.float32(picture[:84]).reshape(4, 21, 4, 24, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(small, whole, atol=3.0)


def test_a_missing_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(UsageError, match=r'pip install "dreamerzero\[box2d\]"'):
        envs.make("BipedalWalker-v3")
    assert "BipedalWalker-v3" not in host.names()
