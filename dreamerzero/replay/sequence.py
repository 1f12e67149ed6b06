"""Sequence replay: one endless stream of frames for each environment, sampled in windows.

A frame is what the agent saw with the reward that led to it and the action it chose there. The
last frame of an episode is kept: it has its reward and its end, and an action that is never taken.
So streams grow at different speeds, and each has its own write head.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero.types import EnvSpec, Rollout


@struct.dataclass
class Frame:
    """One moment; leaves `[..., ]` with the observation in its own dtype."""

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    is_first: jax.Array
    is_last: jax.Array
    is_terminal: jax.Array


@struct.dataclass
class SequenceReplay:
    """`frames` are `[B, N, ...]`; `head [B]` counts the frames each stream ever received."""

    frames: Frame
    head: jax.Array

    @property
    def size(self) -> jax.Array:
        """How many frames each stream holds, `[B]`."""
        return jnp.minimum(self.head, self.frames.reward.shape[1])


def init(spec: EnvSpec, num_envs: int, capacity: int) -> SequenceReplay:
    """An empty replay of `capacity` frames, shared evenly by `num_envs` streams."""

    def empty(shape, dtype):
        return jnp.zeros((num_envs, capacity // num_envs, *shape), dtype)

    frames = Frame(
        observation=empty(spec.observation.shape, spec.observation.dtype),
        action=empty(spec.action.shape, spec.action.dtype),
        reward=empty((), jnp.float32),
        is_first=empty((), bool),
        is_last=empty((), bool),
        is_terminal=empty((), bool),
    )
    return SequenceReplay(frames, jnp.zeros(num_envs, jnp.int32))


def add(replay: SequenceReplay, rollout: Rollout) -> SequenceReplay:
    """Appends a rollout `[T, B, ...]`, and the last frame of every episode that ends in it."""
    num_envs, capacity = replay.frames.reward.shape
    frames, valid = _frames(rollout)
    if valid.shape[0] > capacity:
        raise ValueError(
            f"A rollout of {valid.shape[0] // 2} steps can need {valid.shape[0]} frames, "
            f"but a stream holds {capacity}."
        )
    count = jnp.cumsum(valid, axis=0)
    slot = jnp.where(valid, (replay.head + count - 1) % capacity, capacity)  # beyond: dropped
    stream = jnp.broadcast_to(jnp.arange(num_envs), slot.shape)
    stored = jax.tree.map(
        lambda store, new: store.at[stream, slot].set(new, mode="drop"), replay.frames, frames
    )
    return SequenceReplay(stored, replay.head + count[-1])


def sample(replay: SequenceReplay, key, batch_size: int, length: int) -> Frame:
    """Windows of consecutive frames, uniform over streams and then over starts.

    A window may span episodes (`is_first` tells), but never the write head. Every stream must hold
    at least `length` frames.

    Returns:
      Frames `[length, batch_size, ...]`.
    """
    num_envs, capacity = replay.frames.reward.shape
    stream_key, start_key = jax.random.split(key)
    stream = jax.random.randint(stream_key, (batch_size,), 0, num_envs)
    oldest = (replay.head - replay.size)[stream]
    start = jax.random.randint(start_key, (batch_size,), oldest, replay.head[stream] - length + 1)
    slot = (start + jnp.arange(length)[:, None]) % capacity
    return jax.tree.map(lambda store: store[stream, slot], replay.frames)


def _frames(rollout: Rollout) -> tuple[Frame, jax.Array]:
    """Interleaves each step's frame with the last frame it may have led to: `[2T, B, ...]`."""
    before, after = rollout.timestep, rollout.next_timestep
    no, yes = jnp.zeros_like(before.is_first), jnp.ones_like(before.is_first)
    seen = Frame(before.observation, rollout.action, before.reward, before.is_first, no, no)
    last = Frame(
        after.observation,
        jnp.zeros_like(rollout.action),
        after.reward,
        no,
        yes,
        after.terminated,
    )

    def interleave(a, b):
        return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])

    return jax.tree.map(interleave, seen, last), interleave(yes, after.is_last)
