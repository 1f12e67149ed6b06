"""The world as a table: what each action led to in each state, and how often.

Of each pair (s, a) up to K distinct outcomes are kept with their counts. With K = 1 that is the
deterministic model of Dyna (Sutton 1990): the last outcome, always. With more it is the empirical
distribution, from which one may sample, or over which one may take the expectation; when a pair
shows more than K outcomes the rarest one gives way. A pair never tried leads back to its own state
with reward 0, as Dyna-Q+ assumes of it.

It is learnt by counting, so `remember` stands where other worlds have a `loss`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dreamerzero.types import Box, Discrete, EnvSpec, Prediction, UsageError, static


@struct.dataclass
class Table:
    """What has been seen of S states and A actions, with K outcomes for each pair."""

    successor: jax.Array  # [S, A, K]
    reward: jax.Array  # [S, A, K], the mean of those that came with this outcome
    terminated: jax.Array  # [S, A, K]
    count: jax.Array  # [S, A, K]; outcome 0 is the first to be filled
    tried_at: jax.Array  # [S, A], the clock at the last try; 0 if there was none
    states: jax.Array  # [S], those seen, in the order of their first visit
    num_seen: jax.Array  # how many of them
    clock: jax.Array  # transitions remembered

    @property
    def tried(self) -> jax.Array:
        """Which pairs were ever tried, `[S, A]`."""
        return self.count[..., 0] > 0


class Outcomes(NamedTuple):
    """What a pair may lead to: `[..., K]` each, probabilities adding up to 1."""

    probability: jax.Array
    reward: jax.Array
    terminated: jax.Array
    successor: jax.Array


@struct.dataclass
class Tabular:
    """A table over the environment's own states; see `encode` for which environments have them."""

    spec: EnvSpec = static()
    outcomes: int = static(1)
    discount: float = 0.95

    def init(self, key=None) -> Table:
        states, actions = num_states(self.spec), self.spec.action.num
        shape = (states, actions, self.outcomes)
        own = jnp.arange(states, dtype=jnp.int32)
        return Table(
            successor=jnp.broadcast_to(own[:, None, None], shape),
            reward=jnp.zeros(shape),
            terminated=jnp.zeros(shape, bool),
            count=jnp.zeros(shape, jnp.int32),
            tried_at=jnp.zeros((states, actions), jnp.int32),
            states=jnp.zeros(states, jnp.int32),
            num_seen=jnp.int32(0),
            clock=jnp.int32(0),
        )

    def initial(self, batch_size: int) -> jax.Array:
        """The latent is the number of the state, `[B]`."""
        return jnp.zeros(batch_size, jnp.int32)

    def observe(self, params, key, latent, action, observation, is_first) -> jax.Array:
        return encode(self.spec, observation)

    def step(self, params: Table, key, action, latent) -> tuple[Prediction, jax.Array]:
        outcome = sample(key, recall(params, (latent, action)))
        discount = self.discount * (1.0 - outcome.terminated[..., 0])
        return Prediction(outcome.reward[..., 0], discount), outcome.successor[..., 0]


def remember(table: Table, state, action, reward, successor, terminated) -> Table:
    """Writes down one transition; every argument is a scalar."""
    pair = state, action
    count = table.count[pair]
    known = (count > 0) & (table.successor[pair] == successor)
    known &= table.terminated[pair] == terminated
    place = jnp.where(known.any(), jnp.argmax(known), jnp.argmin(count))
    at = state, action, place
    # With one place the model is the last outcome itself, not a mean over earlier ones like it.
    times = 1 if count.size == 1 else 1 + jnp.where(known[place], count[place], 0)
    mean = table.reward[at]
    clock = table.clock + 1
    is_new = ~(table.count[state, :, 0] > 0).any()
    end = jnp.where(is_new, table.num_seen, table.states.size)  # past the end: dropped
    return table.replace(
        successor=table.successor.at[at].set(successor),
        reward=table.reward.at[at].set(
            jnp.where(times == 1, reward, mean + (reward - mean) / times)
        ),
        terminated=table.terminated.at[at].set(terminated),
        count=table.count.at[at].set(times),
        tried_at=table.tried_at.at[pair].set(clock),
        states=table.states.at[end].set(state, mode="drop"),
        num_seen=table.num_seen + is_new,
        clock=clock,
    )


def recall(table: Table, pairs) -> Outcomes:
    """What is known of `pairs`: an index into `[S, A]`, such as arrays of states and of actions."""
    count = table.count[pairs]
    count = jnp.maximum(count, jnp.arange(count.shape[-1]) == 0)  # the self-loop of an untried pair
    return Outcomes(
        probability=count / count.sum(-1, keepdims=True),
        reward=table.reward[pairs],
        terminated=table.terminated[pairs],
        successor=table.successor[pairs],
    )


def sample(key, outcomes: Outcomes) -> Outcomes:
    """One outcome of each pair, drawn by its probability: `[..., K]` becomes `[..., 1]`."""
    if outcomes.reward.shape[-1] == 1:
        return outcomes
    place = jax.random.categorical(key, jnp.log(outcomes.probability))[..., None]
    chosen = jax.tree.map(lambda x: jnp.take_along_axis(x, place, axis=-1), outcomes)
    return chosen._replace(probability=jnp.ones_like(chosen.probability))


def sample_pairs(table: Table, key, num: int, untried=False) -> tuple[jax.Array, jax.Array]:
    """Remembered pairs: uniform over the states seen, then over the actions tried there.

    Args:
      untried: whether the untried actions of a seen state are drawn too; may be traced.
    Returns:
      States and actions, `[num]` each, drawn with replacement.
    """
    u_state, u_action = jax.random.uniform(key, (2, num))
    state = table.states[jnp.floor(u_state * table.num_seen).astype(jnp.int32)]
    allowed = table.tried[state] | untried  # [num, A]
    rank = jnp.floor(u_action * allowed.sum(-1))
    # The action before which `rank` allowed ones lie.
    action = jnp.sum(jnp.cumsum(allowed, axis=-1) <= rank[:, None], axis=-1, dtype=jnp.int32)
    return state, action


def num_states(spec: EnvSpec) -> int:
    """How many states the environment's observations can tell apart.

    Raises:
      UsageError: if they are not integers with finite bounds.
    """
    if isinstance(spec.observation, Discrete):
        return spec.observation.num
    low, high = _bounds(spec)
    return math.prod((high - low + 1).tolist())


def encode(spec: EnvSpec, observation) -> jax.Array:
    """The number of the state: `[B, ...]` observations become `[B]`.

    A scalar is its own number; an array of bounded integers is read as one number in mixed radix.
    """
    if isinstance(spec.observation, Discrete):
        return observation.astype(jnp.int32)
    low, high = _bounds(spec)
    digits = observation.reshape(
        *observation.shape[: observation.ndim - len(spec.observation.shape)], -1
    )
    place = np.cumprod(np.append(1, (high - low + 1)[:0:-1]))[::-1]
    low, place = low.astype(np.int32), place.astype(np.int32)
    return jnp.sum((digits.astype(jnp.int32) - low) * place, axis=-1)


def _bounds(spec: EnvSpec) -> tuple[np.ndarray, np.ndarray]:
    space: Box = spec.observation
    if not np.issubdtype(space.dtype, np.integer) and space.dtype != "bool":
        raise UsageError(
            f"A table needs observations that are integers; those of {spec.name} are "
            f"{space.dtype}{list(space.shape)}. Choose an agent with a neural network."
        )
    bounds = np.asarray(
        [np.broadcast_to(b, math.prod(space.shape)) for b in (space.low, space.high)]
    )
    if not np.isfinite(bounds).all():
        raise UsageError(
            f"A table needs observations with finite bounds; {spec.name} declares "
            f"{space.low} … {space.high}. Bound its observation space."
        )
    return tuple(bounds.astype(np.int64))
