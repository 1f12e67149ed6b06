"""The words every part of the house shares: what environments show, what agents and worlds are.

Shapes are written `[B, ...]`: `T` is time, `B` a batch of parallel environments or sequences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
from flax import struct

Params = Any  # a pytree of arrays
State = Any  # an agent's learning state, a pytree with a field `params`
Memory = Any  # what acting carries from step to step, leaves `[B, ...]`
Latent = Any  # a world's state, leaves `[B, ...]`
Metrics = dict[str, jax.Array]  # scalars by name


class UsageError(ValueError):
    """Something the user can mend: the message says what was given, what is allowed, what to do."""


def static(default=dataclasses.MISSING, **kwargs):
    """A field of a `flax.struct.dataclass` that is part of the program: a size, a name, a count."""
    return struct.field(pytree_node=False, default=default, **kwargs)


@dataclasses.dataclass(frozen=True)
class Discrete:
    """One integer in `0 … num − 1`."""

    num: int

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def dtype(self) -> str:
        return "int32"


@dataclasses.dataclass(frozen=True)
class Box:
    """An array. `low` and `high` are single numbers, or one number for each element in C order."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float | tuple[float, ...] = -float("inf")
    high: float | tuple[float, ...] = float("inf")


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """What an agent may know of its environment before the first step. Hashable, hence static.

    A continuous action is always a `Box` with bounds −1 and 1: the environment scales it.

    In games not every action is legal in every state (`masked`), two `players` may move in turn,
    and a game may look the same from several sides. Then `symmetries` has, for each side, the cells
    of the observation and the actions in their new order; the first changes nothing.

    Of some environments it is known when an episode terminates: `termination` then takes
    observations, actions and next observations, leaves `[B, ...]`, and returns bools `[B]`.
    """

    name: str
    observation: Box | Discrete
    action: Box | Discrete
    masked: bool = False
    players: int = 1
    symmetries: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    termination: Callable | None = None
    action_repeat: int = 1  # steps of the environment for each action

    @property
    def sign(self) -> float:
        """Of the next value in the eyes of who moves now: −1 where it is the other player's."""
        return -1.0 if self.players == 2 else 1.0


@struct.dataclass
class TimeStep:
    """What an agent sees before it acts; leaves `[B, ...]`, or `[T, B, ...]` in a rollout.

    `reward`, `terminated` and `truncated` belong to the step that led here, and are zero when
    `is_first`. Bootstrap with `1 − terminated` only; both ends can be true at once.

    With two players the agent is whoever is to move: it sees the game from that side, and `reward`
    is that of the player who moved before.
    """

    observation: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    is_first: jax.Array
    legal: jax.Array | None = None  # [B, A], the moves of a game
    state: Any = None  # the game itself, for players who know its rules

    @property
    def is_last(self) -> jax.Array:
        return self.terminated | self.truncated


@struct.dataclass
class Rollout:
    """Experience `[T, B, ...]`.

    `timestep` is what the agent saw, `action` what it did, `next_timestep` what came of it: at an
    episode's end that is the final observation, never the one after the automatic reset.
    """

    timestep: TimeStep
    action: jax.Array
    next_timestep: TimeStep
    extras: Any = None


@struct.dataclass
class Transition:
    """One step by itself, leaves `[...]`: what a memoryless agent learns from.

    Whether an episode was cut off here is not in it, and need not be: `next_observation` is what
    the step truly led to, and only `terminated` says that nothing comes after.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    next_observation: jax.Array

    @staticmethod
    def example(spec: EnvSpec) -> Transition:
        """One of zeros, for its shapes and dtypes."""
        observation = jnp.zeros(spec.observation.shape, spec.observation.dtype)
        action = jnp.zeros(spec.action.shape, spec.action.dtype)
        return Transition(observation, action, jnp.float32(0.0), jnp.bool_(False), observation)

    @staticmethod
    def of(rollout: Rollout) -> Transition:
        """Every step of a rollout, `[T, B, ...]`."""
        after = rollout.next_timestep
        return Transition(
            rollout.timestep.observation,
            rollout.action,
            after.reward,
            after.terminated,
            after.observation,
        )

    @staticmethod
    def each(rollout: Rollout) -> Transition:
        """The same in a row, `[T · B, ...]`, for a replay of single steps."""
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), Transition.of(rollout))


class ActorOutput(NamedTuple):
    """What `Agent.act` returns: actions `[B, ...]`, the memory to carry, extras for `observe`."""

    action: jax.Array
    memory: Memory
    extras: Any = None


@struct.dataclass
class Prediction:
    """One imagined step: reward `[B]` and discount `[B]` = γ · P(the episode goes on)."""

    reward: jax.Array
    discount: jax.Array


class Phase(NamedTuple):
    """A stretch of a run, static. Each iteration takes `collect` steps in every environment, calls
    the agent's method named `prepare` once, then the one named `learn` `repeats` times. An empty
    name is no call."""

    name: str
    iterations: int
    collect: int
    explore: bool = True
    learn: str = "learn"
    repeats: int = 1
    prepare: str = ""

    @property
    def updates(self) -> int:
        """How many updates an iteration makes."""
        return self.repeats if self.learn else 0


def strong(tree):
    """`tree` without weak types. A program that is called with its own result would otherwise be
    compiled twice: in gymnax they differ between `reset` and `step`."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(jnp.result_type(leaf)), tree)


class World(Protocol):
    """A learnt model of an environment. It knows no policy and no planner."""

    def init(self, key: chex.PRNGKey) -> Params: ...

    def initial(self, batch_size: int) -> Latent: ...

    def observe(self, params, key, latent, action, observation, is_first) -> Latent:
        """Filters a real observation `[B, ...]` into the latent; `is_first [B]` resets it."""

    def step(self, params, key, action, latent) -> tuple[Prediction, Latent]:
        """One imagined step, in the argument order of mctx's `recurrent_fn`."""

    def loss(self, params, key, batch) -> tuple[jax.Array, Any]: ...


class Agent(Protocol):
    """A frozen dataclass of hyperparameters: numbers are leaves to vmap over, sizes are static."""

    spec: EnvSpec
    num_envs: int

    def init(self, key: chex.PRNGKey) -> State:
        """The learning state. `State.params` is everything that acting needs."""

    def memory(self, batch_size: int) -> Memory:
        """What acting carries between steps, before the first one."""

    def act(self, params, key, timestep: TimeStep, memory, *, explore: bool) -> ActorOutput:
        """Actions for `timestep` `[B, ...]`; greedy or mean ones unless `explore`."""

    def observe(self, state: State, rollout: Rollout) -> State:
        """Remembers a rollout `[T, B, ...]`."""

    def learn(self, state: State, key: chex.PRNGKey) -> tuple[State, Metrics]:
        """What is learnt between two collections."""

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """The plan of a run of `steps` actions over all parallel environments."""
