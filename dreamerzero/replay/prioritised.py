"""Proportional prioritised replay (Schaul et al. 2016, §3.3).

Item i is drawn with probability p_i^α / Σ_k p_k^α; the masses p^α are the leaves of a `sum_tree`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero.replay import ring, sum_tree
from dreamerzero.replay.ring import Ring


@struct.dataclass
class Prioritised:
    """A ring, and a `sum_tree` over its slots."""

    ring: Ring
    tree: jax.Array
    largest: jax.Array
    """The largest mass ever given: what a new item starts with."""

    @property
    def size(self) -> jax.Array:
        """How many items it holds."""
        return self.ring.size


class Sample(NamedTuple):
    """`slots [B]` name the items `[B, ...]` for `update`; `weights [B]` correct the bias."""

    slots: jax.Array
    items: Any
    weights: jax.Array


def init(example_item, capacity: int) -> Prioritised:
    """An empty replay for items of the example's shapes and dtypes."""
    items = ring.init(example_item, capacity)
    return Prioritised(items, sum_tree.init(capacity), jnp.float32(1.0))


def add(replay: Prioritised, items) -> Prioritised:
    """Writes items `[N, ...]` over the oldest ones, each with the largest priority so far."""
    slots = ring.next_slots(replay.ring, items)
    tree = sum_tree.write(replay.tree, slots, jnp.broadcast_to(replay.largest, slots.shape))
    return replay.replace(ring=ring.add(replay.ring, items), tree=tree)


def sample(replay: Prioritised, key, batch_size: int, beta) -> Sample:
    """Draws by priority: one item from each of `batch_size` equal shares of the total mass.

    The replay must hold an item whose priority is above zero.

    Args:
      beta: how much of the bias to correct, scalar in [0, 1].
    """
    slots, probability = sum_tree.draw(replay.tree, key, batch_size)
    weights = sum_tree.weights(probability, replay.size, beta)
    return Sample(slots, ring.take(replay.ring, slots), weights)


def update(replay: Prioritised, slots, priorities, alpha) -> Prioritised:
    """Gives the items in `slots [B]` new priorities; a slot named twice gets its largest.

    Args:
      priorities: `[B]`, not negative: |δ| + ε for a TD error δ.
      alpha: how much priorities matter, scalar; 0 is uniform.
    """
    masses = priorities**alpha
    return replay.replace(
        tree=sum_tree.write(replay.tree, slots, masses),
        largest=jnp.maximum(replay.largest, jnp.max(masses)),
    )
