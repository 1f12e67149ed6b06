"""Environments outside the program: gymnasium's, MuJoCo's among them, stepped by Python.

A `HostEnv` says what an agent may know; `HostEnvs` are the environments themselves, one after the
other on the CPU. Arrays in here are numpy's.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import io
import pickle
import traceback
import warnings
import zlib

import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnasium.envs.registration import find_highest_version, parse_env_id
from gymnasium.utils import EzPickle

from dreamerzero.envs.api import describe, instance, scaled
from dreamerzero.types import Discrete, EnvSpec, TimeStep, UsageError, static

PREFIX = "gymnasium/"
"""Before ids that gymnax has too: Pendulum-v1 is gymnax's, gymnasium/Pendulum-v1 is not."""

GROUPS = {"mujoco": "mujoco", "box2d": "Box2D", "classic_control": "numpy", "toy_text": "numpy"}
"""Parts of gymnasium, which are also extras of this project where they need a module."""

OWN = {"CarRacing-pixels": "box2d"}
"""This project's own, and the parts that they are made of."""

gymnasium.register("CarRacing-pixels", "dreamerzero.envs.car_racing:CarRacingPixels")


@struct.dataclass
class HostEnv:
    """A gymnasium environment by its name: an id, or `module:Class`. Nothing is open yet."""

    spec: EnvSpec = static()

    frames_per_s: int = static(20)
    """pictures a second that show it at its own speed"""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def action_repeat(self) -> int:
        return self.spec.action_repeat

    def reset(self, key) -> tuple[tuple, TimeStep]:
        """Zeros in the shapes of an episode's start, so that programs can be made for them.

        There is no `step`, for no program can take one. `HostEnvs.reset` begins true episodes.
        """
        seen, no = self.spec.observation, jnp.bool_(False)
        observation = jnp.zeros(seen.shape, seen.dtype)
        return (), TimeStep(observation, jnp.float32(0.0), no, no, is_first=~no)


class HostEnvs:
    """The environments of K lanes, B in each, side by side; leaves are `[K, B, ...]`."""

    def __init__(self, env: HostEnv, lanes: int, size: int, **options):
        """Opens them; `options` are for their own constructor."""
        self.env, self.shape = env, (lanes, size)
        self.envs = [_build(env.name, **options) for _ in range(lanes * size)]
        self.timestep = None  # what they show

    def reset(self, seeds) -> TimeStep:
        """Begins episodes; a seed for each, `[K, B]`, decides these and all later ones."""
        began = [env.reset(seed=int(seed)) for env, seed in zip(self.envs, np.ravel(seeds))]
        observation = np.array([observation for observation, _ in began])
        self.timestep = self._timestep(observation, 0.0, False, False, is_first=True)
        return self.timestep

    def step(self, action, playing=None) -> tuple[TimeStep, TimeStep]:
        """Takes a step in each as `Env.step` does: with the same scales, repeats and resets.

        Args:
          action: `[K, B, ...]`, integers, or numbers in [−1, 1].
          playing: in which of them, bools `[K, B]`; the others stand still. All if omitted.
        Returns:
          What the agent sees next, and what the step truly led to.
        """
        count, seen = len(self.envs), self.env.spec.observation
        actions = self._scale(np.reshape(action, (count, *self.env.spec.action.shape)))
        shown = self.timestep.observation.reshape(count, *seen.shape).copy()
        final = shown.copy()
        reward, terminated, truncated = np.zeros((3, count))
        for i in range(count) if playing is None else np.flatnonzero(playing):
            env, over, repeats = self.envs[i], False, self.env.action_repeat
            while repeats and not over:
                final[i], gained, terminated[i], truncated[i], _ = env.step(actions[i])
                reward[i] += gained
                over, repeats = terminated[i] or truncated[i], repeats - 1
            shown[i] = env.reset()[0] if over else final[i]
        over = terminated + truncated > 0
        successor = self._timestep(final, reward, terminated, truncated, is_first=False)
        self.timestep = self._timestep(shown, reward * ~over, False, False, is_first=over)
        return self.timestep, successor

    def dump(self) -> bytes | None:
        """All that they are, down to their random numbers; None if that cannot be saved."""
        content = io.BytesIO()
        try:
            _Pickler(content).dump(self.envs)
        except Exception:  # whatever their parts raise that are bound to this process
            return None
        return zlib.compress(content.getvalue(), level=1)

    def load(self, content: bytes, timestep: TimeStep) -> None:
        """Goes on where `dump` was called, when they showed `timestep`."""
        self.close()
        self.envs, self.timestep = pickle.loads(zlib.decompress(content)), timestep

    def draw(self) -> np.ndarray:
        """A picture `[H, W, 3]` of the first one, whose `render_mode` has to be `rgb_array`."""
        try:
            picture = self.envs[0].render()
        except Exception as error:  # whatever the drawing library raises
            said = traceback.format_exception_only(error)[-1].strip()  # some have no str()
            hint = ""
            if _group(self.env.name) == "mujoco":
                hint = ". Without a screen install EGL or OSMesa, and set MUJOCO_GL=egl or osmesa"
            raise UsageError(f"{self.env.name} cannot be drawn here: {said}{hint}.") from error
        if not isinstance(picture, np.ndarray):
            raise UsageError(f"{self.env.name} draws no pictures: it has no mode rgb_array.")
        return picture

    def close(self) -> None:
        for env in self.envs:
            env.close()

    def _scale(self, action):
        """From the agent's [−1, 1] to the environment's own bounds; integers pass."""
        if isinstance(self.env.spec.action, Discrete):
            return action
        space = self.envs[0].action_space
        return scaled(action, space.low, space.high)

    def _timestep(self, observation, reward, terminated, truncated, is_first) -> TimeStep:
        """Of arrays `[K · B, ...]`, or of what all have in common."""

        def lanes(values, dtype):
            return np.broadcast_to(np.asarray(values, dtype), len(self.envs)).reshape(self.shape)

        seen = self.env.spec.observation
        return TimeStep(
            observation=np.asarray(observation, seen.dtype).reshape(*self.shape, *seen.shape),
            reward=lanes(reward, np.float32),
            terminated=lanes(terminated, bool),
            truncated=lanes(truncated, bool),
            is_first=lanes(is_first, bool),
        )


def names() -> tuple[str, ...]:
    """Ids of gymnasium, each in its newest version, as far as what they need is installed."""
    listed = filter(_listed, gymnasium.registry)
    return tuple(PREFIX + name if name in gymnax.registered_envs else name for name in listed)


def _listed(name: str) -> bool:
    namespace, base, version = parse_env_id(name)
    group = _group(name)
    return (
        group is not None
        and namespace is None
        and version == find_highest_version(namespace, base)
        and importlib.util.find_spec(GROUPS[group]) is not None
        and base != "Blackjack"  # it shows tuples
    )


def knows(name: str) -> bool:
    """Whether gymnasium has an environment of that name."""
    return name.removeprefix(PREFIX) in gymnasium.registry


@functools.cache
def face(name: str) -> HostEnv:
    """The environment of that name, an id or `module:Class`, after a look at one.

    Raises:
      UsageError: if it cannot be built, or shows or wants what no agent can deal with.
    """
    try:
        env = _build(name)
    except (gymnasium.error.Error, ImportError, AttributeError) as error:
        said = str(error).rstrip(".")
        raise UsageError(f"Cannot build environment {name!r}: {said}.{_extra(name)}") from error
    for space in (env.observation_space, env.action_space):
        if np.any(getattr(space, "start", 0)):
            raise UsageError(f"{name}: {space} does not begin with 0. Let it do so.")
    observation = _begun(name, env)
    seen = jax.eval_shape(jnp.asarray, observation) if _plain(observation) else observation
    spec = describe(name, env.observation_space, seen, env.action_space)
    _stepped(name, env, np.shape(observation))
    return HostEnv(spec, frames_per_s=round(env.metadata.get("render_fps") or 20))


def _begun(name: str, env: gymnasium.Env):
    """What an environment shows first, if it begins as gymnasium's do."""
    try:
        inspect.signature(env.reset).bind(seed=0)
    except TypeError as error:
        raise UsageError(
            f"{name}: its reset takes no seed. Let it be reset(*, seed=None, options=None)."
        ) from error
    began = env.reset(seed=0)
    if not isinstance(began, tuple) or len(began) != 2:
        raise UsageError(f"{name}: its reset returns no pair. Return observation and info.")
    return began[0]


def _stepped(name: str, env: gymnasium.Env, shape: tuple) -> None:
    """Takes a step, to see whether it leads on as gymnasium's do."""
    after = env.step(env.action_space.sample())
    if not isinstance(after, tuple) or len(after) != 5:
        raise UsageError(
            f"{name}: its step returns no five things. Return observation, reward, terminated, "
            "truncated and info."
        )
    if np.shape(after[0]) != shape:
        raise UsageError(
            f"{name}: its step shows shape {np.shape(after[0])}, its reset {shape}. Let both show "
            "the same."
        )
    if np.shape(after[1]) != ():
        raise UsageError(f"{name}: its step pays {after[1]!r}. Let a reward be a number.")


def _plain(observation) -> bool:
    return hasattr(observation, "dtype") or isinstance(observation, int | float)


def _build(name: str, **options) -> gymnasium.Env:
    if ":" in name:
        return instance(name, **options)
    if _group(name) == "mujoco":
        _hear_mujoco()
    return gymnasium.make(name.removeprefix(PREFIX), disable_env_checker=True, **options)


@functools.cache
def _hear_mujoco() -> None:
    """Of each warning MuJoCo's own handler prints one for every environment, and fills a file."""
    import mujoco

    mujoco.set_mju_user_warning(warnings.warn)


def _group(name: str) -> str | None:
    """The part of gymnasium, of `GROUPS`, that an environment belongs to, if to any."""
    if own := OWN.get(name.removeprefix(PREFIX)):
        return own
    registered = gymnasium.registry.get(name.removeprefix(PREFIX))
    entry = registered.entry_point if registered else None
    parts = entry.split(".") if isinstance(entry, str) else []
    return parts[2] if parts[:2] == ["gymnasium", "envs"] and parts[2] in GROUPS else None


def _extra(name: str) -> str:
    """The end of an error message: what to install."""
    group = _group(name)
    if group is None or importlib.util.find_spec(GROUPS[group]):
        return ""
    return f' Install it: pip install "dreamerzero[{group}]", or pip install "gymnasium[{group}]".'


class _Pickler(pickle.Pickler):
    """Of most environments gymnasium pickles how they were made; this one, how they are now."""

    def reducer_override(self, thing):
        if isinstance(thing, EzPickle):
            return _unborn, (type(thing),), thing.__dict__, None, None, _fill
        return NotImplemented


def _unborn(kind):
    return kind.__new__(kind)


def _fill(thing, content):
    thing.__dict__.update(content)
