"""Sequence replay: one endless stream of frames for each environment, sampled in windows.

A frame is what the agent saw with the reward that led to it and the action it chose there. The
last frame of an episode is kept: it has its reward and its end, and an action that is never taken.
So streams grow at different speeds, and each has its own write head.

Beside each frame lies what the agent knew there, its context: a window can begin with what its
sequence really left, and what an update knows better is written back (Hafner et al. 2023).
"""

from __future__ import annotations

from typing import Any

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
    context: Any = None
    legal: jax.Array | None = None


@struct.dataclass
class SequenceReplay:
    """`frames` are `[B, N, ...]`; `head [B]` counts the frames each stream ever received, and
    `fresh [B]` those that have had their turn in the online queue."""

    frames: Frame
    head: jax.Array
    fresh: jax.Array

    @property
    def size(self) -> jax.Array:
        """How many frames each stream holds, `[B]`."""
        return jnp.minimum(self.head, self.frames.reward.shape[1])


@struct.dataclass
class Place:
    """Where windows lie in the replay."""

    stream: jax.Array  # [B]
    slot: jax.Array  # [T, B]


def init(spec: EnvSpec, num_envs: int, capacity: int, context=None) -> SequenceReplay:
    """An empty replay of `capacity` frames, shared evenly by `num_envs` streams.

    Args:
      context: an example `[num_envs, ...]` of what the rollouts' extras will hold, if anything.
    """

    def empty(shape, dtype):
        return jnp.zeros((num_envs, capacity // num_envs, *shape), dtype)

    frames = Frame(
        observation=empty(spec.observation.shape, spec.observation.dtype),
        action=empty(spec.action.shape, spec.action.dtype),
        reward=empty((), jnp.float32),
        is_first=empty((), bool),
        is_last=empty((), bool),
        is_terminal=empty((), bool),
        context=jax.tree.map(lambda leaf: empty(leaf.shape[1:], leaf.dtype), context),
        legal=empty((spec.action.num,), bool) if spec.masked else None,
    )
    return SequenceReplay(
        frames, jnp.zeros(num_envs, jnp.int32), fresh=jnp.zeros(num_envs, jnp.int32)
    )


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
    return replay.replace(frames=stored, head=replay.head + count[-1])


def sample(
    replay: SequenceReplay, key, batch_size: int, length: int
) -> tuple[SequenceReplay, Frame, Place]:
    """Windows of consecutive frames: new ones once each, as soon as they are whole (the online
    queue), the others uniform over streams and then over starts. Where new ones come faster than
    they are drawn, all but the newest of each stream lose their place in the queue.

    A window may span episodes (`is_first` tells), but never the write head. Every stream must hold
    at least `length` frames. Windows of the online queue overlap in one frame, so that every
    transition is in one of them.

    Returns:
      The replay with its queue moved on, frames `[length, batch_size, ...]`, and their place.
    """
    num_envs = len(replay.head)
    oldest = replay.head - replay.size
    stream_key, start_key = jax.random.split(key)
    stream = jax.random.randint(stream_key, (batch_size,), 0, num_envs)
    start = jax.random.randint(
        start_key, (batch_size,), oldest[stream], replay.head[stream] - length + 1
    )

    fresh = jnp.maximum(replay.fresh, jnp.maximum(oldest, replay.head - 2 * (length - 1)))
    ready = replay.head - fresh >= length
    queue = jnp.argsort(~ready)[:batch_size]  # stable: the streams that are ready come first
    online = ready[queue]
    stream = stream.at[: queue.size].set(jnp.where(online, queue, stream[: queue.size]))
    start = start.at[: queue.size].set(jnp.where(online, fresh[queue], start[: queue.size]))
    fresh = fresh.at[queue].add(jnp.where(online, length - 1, 0))

    frames, place = take(replay, stream, start, length)
    return replay.replace(fresh=fresh), frames, place


def take(replay: SequenceReplay, stream, start, length: int) -> tuple[Frame, Place]:
    """The windows of `length` frames that begin at `start [B]` of `stream [B]`: their frames
    `[length, B, ...]`, and their place."""
    capacity = replay.frames.reward.shape[1]
    place = Place(stream, (start + jnp.arange(length)[:, None]) % capacity)
    return jax.tree.map(lambda store: store[stream, place.slot], replay.frames), place


def cut(replay: SequenceReplay) -> SequenceReplay:
    """Ends the newest episode of every stream where it is: what follows is another one."""
    streams, capacity = replay.frames.reward.shape
    newest = jnp.arange(streams), (replay.head - 1) % capacity
    is_last = replay.frames.is_last.at[newest].max(replay.head > 0)
    return replay.replace(frames=replay.frames.replace(is_last=is_last))


def write_back(replay: SequenceReplay, place: Place, context) -> SequenceReplay:
    """Renews the context `[T, B, ...]` of sampled frames. Where windows overlap, one of them wins
    in each leaf: always the same one on a CPU, any of them on a GPU."""
    stored = jax.tree.map(
        lambda store, new: store.at[place.stream, place.slot].set(new),
        replay.frames.context,
        context,
    )
    return replay.replace(frames=replay.frames.replace(context=stored))


def _frames(rollout: Rollout) -> tuple[Frame, jax.Array]:
    """Interleaves each step's frame with the last frame it may have led to: `[2T, B, ...]`."""
    before, after = rollout.timestep, rollout.next_timestep
    no, yes = jnp.zeros_like(before.is_first), jnp.ones_like(before.is_first)
    seen = Frame(
        before.observation,
        rollout.action,
        before.reward,
        before.is_first,
        no,
        no,
        rollout.extras,
        before.legal,
    )
    last = Frame(
        after.observation,
        jnp.zeros_like(rollout.action),
        after.reward,
        no,
        yes,
        after.terminated,
        # Nothing is known there until an update writes it, nor needed: an episode's end is followed
        # by another's beginning, which forgets what was before.
        jax.tree.map(jnp.zeros_like, rollout.extras),
        after.legal,
    )

    def interleave(a, b):
        return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])

    return jax.tree.map(interleave, seen, last), interleave(yes, after.is_last)
