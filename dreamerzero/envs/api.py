"""One face for every environment: a gymnax environment, batched steps left to `vmap`."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment as gymnax_api
from gymnax.environments import spaces

from dreamerzero.envs.terminations import termination
from dreamerzero.types import (
    Box,
    Discrete,
    EnvSpec,
    Prediction,
    TimeStep,
    UsageError,
    static,
    strong,
)

BOX = spaces.Box, gymnasium.spaces.Box
DISCRETE = spaces.Discrete, gymnasium.spaces.Discrete


@struct.dataclass
class Env:
    """A gymnax environment with its parameters and its spec.

    A pytree whose leaves are the environment's own parameters, so that a program can be compiled
    once and mapped over them. `name` is what rebuilds it: an id, or `module:Class`. Every action of
    the agent is taken `action_repeat` times.
    """

    environment: gymnax_api.Environment = static()
    spec: EnvSpec = static()
    params: Any = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def action_repeat(self) -> int:
        return self.spec.action_repeat

    def reset(self, key) -> tuple[Any, TimeStep]:
        """Starts an episode: the environment's state and its first `TimeStep`, unbatched."""
        observation, state = self.environment.reset_env(key, self.params)
        return strong(state), self._timestep(observation, state, 0.0, False, False, is_first=True)

    def step(self, key, state, action) -> tuple[Any, TimeStep, TimeStep]:
        """Takes one step, and starts the next episode in the same step when this one ends.

        With `action_repeat` that is so many steps of the environment, fewer where an episode ends
        before, with the sum of their rewards.

        Args:
          action: an integer, or an array in [−1, 1] that is scaled to the environment's bounds.
        Returns:
          The state, what the agent sees next (of the new episode after an end), and what the step
          truly led to (the final observation, with its reward and its end). Unbatched.
        """
        action = self.scale_action(action)
        earned = 0.0
        if self.action_repeat > 1:

            def go_on(carry, next_key):
                """Takes the step that is due; one that ends the episode stays due."""
                key, state, earned = carry
                stepped, _, successor = self._once(key, state, action)
                then = (next_key, stepped, earned + successor.reward)
                return _where(successor.is_last, carry, then), None

            # The last step is taken after all others, so that none of these has to be drawn.
            keys = jax.random.split(key, self.action_repeat)
            start = (keys[0], state, jnp.zeros(()))
            (key, state, earned), _ = jax.lax.scan(go_on, start, keys[1:])
        state, fresh, successor = self._once(key, state, action)
        successor = successor.replace(reward=earned + successor.reward)
        return state, _where(successor.is_last, fresh, successor), successor

    def _once(self, key, state, action):
        """One step of the environment: the state, what is seen next if the episode ended, and what
        the step truly led to."""
        observation, state, reward, terminated, truncated, info = self.environment.step(
            key, state, action, self.params
        )
        fresh = self._timestep(observation, state, 0.0, False, False, is_first=True)
        # After an end `state` is the next game's, but then nothing is decided in `successor`.
        successor = self._timestep(
            info["final_observation"], state, reward, terminated, truncated, is_first=False
        )
        return strong(state), fresh, successor

    def rules(self, discount=1.0):
        """The environment itself as a world: `step(key, action [B, ...], state) -> (Prediction,
        state)`, for planners that are given the truth, as a control for those that learn it.

        Steps cost what they cost here; only an episode's true end, never a time limit, ends one.
        """

        def once(state, key, action):
            _, state, reward, terminated, _ = self.environment.step_env(
                key, state, self.scale_action(action), self.params
            )
            return strong(state), jnp.float32(reward), 1.0 - terminated

        def step(key, action, state):
            def again(carry, key):
                state, reward, going_on = carry
                state, more, goes_on = jax.vmap(once)(
                    state, jax.random.split(key, len(action)), action
                )
                return (state, reward + going_on * more, going_on * goes_on), None

            start = (state, jnp.zeros(len(action)), jnp.ones(len(action)))
            keys = jax.random.split(key, self.action_repeat)
            (state, reward, going_on), _ = jax.lax.scan(again, start, keys)
            return Prediction(reward, discount * going_on), state

        return step

    def scale_action(self, action):
        """From the agent's [−1, 1] to the environment's own bounds; integers pass."""
        if isinstance(self.spec.action, Discrete):
            return action
        space = self.environment.action_space(self.params)
        low, high = (jnp.asarray(bound, jnp.float32) for bound in (space.low, space.high))
        return scaled(jnp.asarray(action), low, high)

    def _timestep(self, observation, state, reward, terminated, truncated, is_first) -> TimeStep:
        # gymnax rewards and flags can be integers or weakly typed: one dtype keeps scans stable.
        return TimeStep(
            observation=jnp.asarray(observation, self.spec.observation.dtype),
            reward=jnp.asarray(reward, jnp.float32),
            terminated=jnp.asarray(terminated, bool),
            truncated=jnp.asarray(truncated, bool),
            is_first=jnp.asarray(is_first, bool),
            legal=self.environment.legal_actions(state) if self.spec.masked else None,
            state=strong(state) if self.spec.masked else None,
        )


def scaled(action, low, high):
    """Actions in [−1, 1] within an environment's own bounds; arrays of numpy or of JAX."""
    own = low + (action.clip(-1.0, 1.0) + 1.0) / 2.0 * (high - low)
    return own.clip(low, high)  # rounding can lead out of them


def wrap(
    environment: gymnax_api.Environment,
    params=None,
    name: str | None = None,
    binary: bool = False,
) -> Env:
    """Gives a gymnax environment the house's face.

    A game has a method `legal_actions(state)` that returns `[A]` bools; if two players move in
    turn, `players` is 2, and `symmetries` are those of `EnvSpec`.

    Args:
      params: the environment's own parameters; its defaults if omitted.
      name: what to call it; `module:Class` if omitted, from which a run folder can rebuild it.
      binary: whether observations are zeros and ones, whatever their dtype; they become bools.
    Raises:
      UsageError: if what the environment returns is not what its spaces promise.
    """
    params = environment.default_params if params is None else params
    kind = type(environment)
    name = name or f"{kind.__module__}:{kind.__qualname__}"
    return Env(
        environment=environment, spec=_spec(environment, params, name, binary), params=params
    )


def instance(path: str, **options) -> gymnax_api.Environment | gymnasium.Env:
    """Builds an environment from `module:Class`, the class taking no arguments but `options`."""
    module_name, _, class_name = path.partition(":")
    try:
        environment = getattr(importlib.import_module(module_name), class_name)(**options)
        if not isinstance(environment, gymnax_api.Environment | gymnasium.Env):
            raise TypeError(f"{class_name} is no gymnax Environment and no gymnasium Env")
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"Cannot build environment {path!r}: {error}. Give a name from `dreamerzero envs`, or "
            "module:Class of a gymnax Environment or a gymnasium Env that is importable and needs "
            "no arguments."
        ) from error
    return environment


def _where(condition, a, b):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), a, b)


def _spec(environment, params, name, binary) -> EnvSpec:
    actual = jax.eval_shape(lambda key: environment.reset(key, params)[0], jax.random.key(0))
    return describe(
        name,
        environment.observation_space(params),
        actual,
        environment.action_space(params),
        binary,
        masked=hasattr(environment, "legal_actions"),
        players=getattr(environment, "players", 1),
        symmetries=getattr(environment, "symmetries", ()),
    )


def describe(name, declared, actual, action_space, binary: bool = False, **rest) -> EnvSpec:
    """The spec of an environment.

    Args:
      declared: the observation's space, and `action_space` the action's, of gymnax or gymnasium.
      actual: shape and dtype of an observation.
      binary: as for `wrap`.  rest: further fields of the spec.
    Raises:
      UsageError: if observations are not what they are declared to be, or of no supported kind.
    """
    if not isinstance(declared, BOX + DISCRETE):
        raise UsageError(
            f"{name}: the observation space is {declared!r}; only Box and Discrete are supported. "
            "Concatenate the parts in the environment's observation."
        )
    if not isinstance(actual, jax.ShapeDtypeStruct) or actual.shape != tuple(declared.shape):
        shape = getattr(actual, "shape", type(actual).__name__)
        raise UsageError(
            f"{name}: reset() returns an observation of shape {shape}, but observation_space "
            f"declares {tuple(declared.shape)}. Make the two agree."
        )
    if isinstance(declared, DISCRETE):
        observation = Discrete(int(declared.n))
    elif binary:
        observation = Box(actual.shape, "bool", 0.0, 1.0)
    else:
        # The dtype is what arrives, not what is declared: several gymnax spaces are mistaken.
        observation = Box(actual.shape, str(actual.dtype), *_bounds(declared))
    action = _action(action_space, name)
    return EnvSpec(name, observation, action, termination=termination(name), **rest)


def _action(space, name) -> Box | Discrete:
    if isinstance(space, DISCRETE):
        return Discrete(int(space.n))
    if not isinstance(space, BOX) or not np.issubdtype(space.dtype, np.floating):
        raise UsageError(
            f"{name}: the action space is {space!r}; only Discrete and Box of floats can act."
        )
    if not np.all(np.isfinite([np.min(space.low), np.max(space.high)])):
        raise UsageError(f"{name}: the action bounds {space!r} are not finite; give finite ones.")
    return Box(tuple(space.shape), "float32", -1.0, 1.0)


def _bounds(space):
    def bound(value):
        value = np.asarray(value, np.float64)
        if value.size > 1 and np.any(value != value.flat[0]):
            return tuple(np.broadcast_to(value, space.shape).ravel().tolist())
        return float(value.flat[0])

    return bound(space.low), bound(space.high)
