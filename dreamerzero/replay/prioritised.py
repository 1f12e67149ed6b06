"""Proportional prioritised replay (Schaul et al. 2016, §3.3 and appendix B.2.1).

Item i is drawn with probability p_i^α / Σ_k p_k^α. The masses p^α are the leaves of a binary tree
whose nodes hold the sums of their two children, so that a draw is a descent and a change a climb,
O(log capacity) each. The tree is one array: the root is node 1, the children of n are 2n and 2n+1.

Masses are float32: with more than about a million items the single draw becomes coarse.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero.replay import ring
from dreamerzero.replay.ring import Ring


@struct.dataclass
class Prioritised:
    """`tree` is `[2 · leaves]` with `leaves` the capacity rounded up to a power of two."""

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
    leaves = 1 << (capacity - 1).bit_length()
    return Prioritised(items, jnp.zeros(2 * leaves), jnp.float32(1.0))


def add(replay: Prioritised, items) -> Prioritised:
    """Writes items `[N, ...]` over the oldest ones, each with the largest priority so far."""
    slots = ring.next_slots(replay.ring, items)
    tree = _set(replay.tree, slots, jnp.broadcast_to(replay.largest, slots.shape))
    return replay.replace(ring=ring.add(replay.ring, items), tree=tree)


def sample(replay: Prioritised, key, batch_size: int, beta) -> Sample:
    """Draws by priority: one item from each of `batch_size` equal shares of the total mass.

    The weights are (N · P(i))^−β, scaled so that the batch's largest is 1 (§3.4). The replay must
    hold an item whose priority is above zero.

    Args:
      beta: how much of the bias to correct, scalar in [0, 1].
    """
    total = replay.tree[1]
    jitter = jax.random.uniform(key, (batch_size,))
    leaf = _descend(replay.tree, (jnp.arange(batch_size) + jitter) / batch_size * total)
    weights = (replay.size * replay.tree[leaf] / total) ** -beta
    slots = leaf - replay.tree.shape[0] // 2
    return Sample(slots, ring.take(replay.ring, slots), weights / jnp.max(weights))


def update(replay: Prioritised, slots, priorities, alpha) -> Prioritised:
    """Gives the items in `slots [B]` new priorities; a slot named twice gets its largest.

    Args:
      priorities: `[B]`, not negative: |δ| + ε for a TD error δ.
      alpha: how much priorities matter, scalar; 0 is uniform.
    """
    masses = priorities**alpha
    return replay.replace(
        tree=_set(replay.tree, slots, masses),
        largest=jnp.maximum(replay.largest, jnp.max(masses)),
    )


def _set(tree, slots, masses):
    """Writes leaves, and every sum above them anew from its children: rounding never adds up."""
    leaves = tree.shape[0] // 2
    node = leaves + slots
    tree = tree.at[node].set(0.0).at[node].max(masses)  # scatter-max: duplicates in any order

    def climb(_, carry):
        tree, node = carry
        node = node // 2
        return tree.at[node].set(tree[2 * node] + tree[2 * node + 1]), node

    return jax.lax.fori_loop(0, leaves.bit_length() - 1, climb, (tree, node))[0]


def _descend(tree, mass):
    """The leaves in which the cumulative masses `[B]` fall."""

    def step(_, carry):
        node, mass = carry
        left, right = tree[2 * node], tree[2 * node + 1]
        # Rounding can leave more mass than there is: never step into an empty half.
        goes_right = (mass >= left) & (right > 0)
        return 2 * node + goes_right, jnp.where(goes_right, mass - left, mass)

    levels = (tree.shape[0] // 2).bit_length() - 1
    return jax.lax.fori_loop(0, levels, step, (jnp.ones(mass.shape, jnp.int32), mass))[0]
