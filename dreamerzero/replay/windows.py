"""Windows of consecutive frames, drawn by priority from the streams of a `sequence` replay.

A window is named by the slot of its first frame; its mass p^α lies in a `sum_tree` from the moment
that all its frames are there until the first one is overwritten. New windows begin with the largest
mass so far, so that each will be seen soon. With α = 0 all windows are equally likely.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero.replay import sequence, sum_tree
from dreamerzero.replay.sequence import Frame, Place, SequenceReplay
from dreamerzero.types import EnvSpec, Rollout, static


@struct.dataclass
class Windows:
    """Streams of frames `[B, N, ...]`, and a `sum_tree` over their B · N slots."""

    streams: SequenceReplay
    tree: jax.Array
    largest: jax.Array  # mass ever given
    length: int = static()


class Sample(NamedTuple):
    """Frames `[length, B, ...]`, where they lie, and the `weights [B]` that correct the bias."""

    frames: Frame
    place: Place
    weights: jax.Array


def init(spec: EnvSpec, num_envs: int, capacity: int, length: int, context=None) -> Windows:
    """An empty replay for windows of `length` frames; all else as in `sequence.init`."""
    streams = sequence.init(spec, num_envs, capacity, context)
    slots = streams.frames.reward.size
    return Windows(streams, sum_tree.init(slots), jnp.float32(1.0), length)


def add(replay: Windows, rollout: Rollout) -> Windows:
    """Appends a rollout `[T, B, ...]`. Windows that lose their first frame can no longer be drawn,
    and those that got their last one can."""
    streams = sequence.add(replay.streams, rollout)
    before, after = replay.streams.head, streams.head
    # Windows that the new frames may complete, and those that begin with a new frame.
    new = jnp.arange(2 * len(rollout.action))
    start = before[:, None] + jnp.concatenate([new - (replay.length - 1), new])
    start = jnp.minimum(start, after[:, None] - 1)  # there were fewer frames: again the last one
    oldest = after - streams.size
    complete = (start >= oldest[:, None]) & (start + replay.length <= after[:, None])
    masses = jnp.where(complete, replay.largest, 0.0)
    stream = jnp.arange(len(before))[:, None]
    leaves = _leaves(streams, stream, start)
    tree = sum_tree.write(replay.tree, leaves.ravel(), masses.ravel())
    return replay.replace(streams=streams, tree=tree)


def sample(replay: Windows, key, batch_size: int, beta) -> Sample:
    """Draws windows by priority. They may span episodes (`is_first` tells), never the write head.

    Args:
      beta: how much of the bias to correct, scalar in [0, 1].
    """
    capacity = replay.streams.frames.reward.shape[1]
    leaf, probability = sum_tree.draw(replay.tree, key, batch_size)
    frames, place = sequence.take(replay.streams, leaf // capacity, leaf % capacity, replay.length)
    number = jnp.sum(jnp.maximum(replay.streams.size - replay.length + 1, 0))
    return Sample(frames, place, sum_tree.weights(probability, number, beta))


def age(replay: Windows, place: Place) -> jax.Array:
    """How many frames their streams have received since the windows' last ones, `[B]`."""
    capacity = replay.streams.frames.reward.shape[1]
    return (replay.streams.head[place.stream] - 1 - place.slot[-1]) % capacity


def update(replay: Windows, place: Place, priorities, alpha) -> Windows:
    """Gives sampled windows new priorities `[B]`, not negative; one drawn twice gets its largest.

    Args:
      alpha: how much priorities matter, scalar; 0 is uniform.
    """
    masses = priorities**alpha
    leaves = _leaves(replay.streams, place.stream, place.slot[0])
    tree = sum_tree.write(replay.tree, leaves, masses)
    return replay.replace(tree=tree, largest=jnp.maximum(replay.largest, jnp.max(masses)))


def _leaves(streams: SequenceReplay, stream, start):
    """The leaves of the windows that begin with frames number `start` of each `stream`."""
    capacity = streams.frames.reward.shape[1]
    return stream * capacity + start % capacity
