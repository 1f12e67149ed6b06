"""The item ring: the last `capacity` items, sampled uniformly.

An item is any pytree of arrays, stored in its own dtype. All functions are pure; donate the ring to
a jitted program and it is written in place.
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero.types import UsageError

MANY = 2**30
"""Beyond it a count falls back by whole rounds: in int32 it would soon be negative."""


@struct.dataclass
class Ring:
    """`items` are `[capacity, ...]`; `count` is how many were ever added, up to `MANY`."""

    items: Any
    count: jax.Array

    @property
    def capacity(self) -> int:
        return jax.tree.leaves(self.items)[0].shape[0]

    @property
    def size(self) -> jax.Array:
        """How many items it holds."""
        return jnp.minimum(self.count, self.capacity)


def init(example_item, capacity: int) -> Ring:
    """An empty ring for items of the example's shapes and dtypes (`ShapeDtypeStruct`s will do)."""
    if capacity < 1:
        raise UsageError(f"A replay's capacity is at least 1; got {capacity}.")
    example = jax.eval_shape(lambda item: jax.tree.map(jnp.asarray, item), example_item)
    items = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), example)
    return Ring(items, jnp.int32(0))


def add(ring: Ring, items) -> Ring:
    """Writes items `[N, ...]` over the oldest ones.

    Raises:
      UsageError: if there are more items than the ring has room for.
      AssertionError: if they are of another structure, shape or dtype.
    """
    slots = _slots(ring, items)
    stored = jax.tree.map(
        lambda store, new: store.at[slots].set(new, unique_indices=True), ring.items, items
    )
    count = ring.count + slots.shape[0]
    rounds = MANY // ring.capacity * ring.capacity
    return Ring(stored, jnp.where(count >= rounds + ring.capacity, count - rounds, count))


def sample(ring: Ring, key, batch_size: int, newest=None):
    """Items `[batch_size, ...]`, uniform and with replacement; zeros while the ring is empty.

    Args:
      newest: draw only from so many items, those added last; from all if None.
    """
    if newest is None:
        slots = jax.random.randint(key, (batch_size,), 0, jnp.maximum(ring.size, 1))
    else:
        among = jnp.clip(newest, 1, jnp.maximum(ring.size, 1))
        age = jax.random.randint(key, (batch_size,), 1, among + 1)
        slots = (ring.count - age) % ring.capacity
    return jax.tree.map(lambda store: store[slots], ring.items)


def _slots(ring: Ring, items) -> jax.Array:
    """Where `add` writes items `[N, ...]`: `[N]`, after checking that they belong here."""
    number = jax.tree.leaves(items)[0].shape[0]
    if number > ring.capacity:
        raise UsageError(
            f"{number} items are added at once, but the replay holds {ring.capacity}. "
            "Raise its capacity, or collect fewer steps or from fewer environments at a time."
        )
    expected = jax.tree.map(
        lambda store: jax.ShapeDtypeStruct((number, *store.shape[1:]), store.dtype), ring.items
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(items, expected)
    return (ring.count + jnp.arange(number)) % ring.capacity
