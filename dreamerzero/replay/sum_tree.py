"""A binary tree of sums: draws in proportion to masses (Schaul et al. 2016, appendix B.2.1).

The masses are the leaves, and every node holds the sum of its two children, so that a draw is a
descent and a change a climb, O(log leaves) each. The tree is one array: the root is node 1, the
children of n are 2n and 2n + 1.

Masses are float32: with more than about a million leaves the single draw becomes coarse.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def init(number: int) -> jax.Array:
    """A tree `[2 · leaves]` of zeros, with `number` leaves rounded up to a power of two."""
    return jnp.zeros(2 << (number - 1).bit_length())


def write(tree, leaves, masses):
    """Gives `leaves [N]` their `masses [N]`, not negative; one named twice gets its largest."""
    first = tree.shape[0] // 2
    node = first + leaves
    tree = tree.at[node].set(0.0).at[node].max(masses)  # scatter-max: duplicates in any order

    def climb(_, carry):
        # Every sum anew from its children: rounding never adds up.
        tree, node = carry
        node = node // 2
        return tree.at[node].set(tree[2 * node] + tree[2 * node + 1]), node

    return jax.lax.fori_loop(0, first.bit_length() - 1, climb, (tree, node))[0]


def draw(tree, key, number: int):
    """Leaves `[number]` in proportion to their masses, one from each of as many equal shares of the
    total, in any order; and the probability `[number]` that each of them had. A mass must be above
    zero."""
    first = tree.shape[0] // 2
    order_key, jitter_key = jax.random.split(key)
    # Shuffled, or the first rows of a batch would always be of the first leaves.
    share = jax.random.permutation(order_key, number)
    jitter = jax.random.uniform(jitter_key, (number,))
    mass = (share + jitter) / number * tree[1]

    def descend(_, carry):
        node, mass = carry
        left, right = tree[2 * node], tree[2 * node + 1]
        # Rounding can leave more mass than there is: never step into an empty half.
        goes_right = (mass >= left) & (right > 0)
        return 2 * node + goes_right, jnp.where(goes_right, mass - left, mass)

    start = jnp.ones(number, jnp.int32), mass
    node, _ = jax.lax.fori_loop(0, first.bit_length() - 1, descend, start)
    return node - first, tree[node] / tree[1]


def weights(probability, number, beta):
    """(N · P)^−β of a batch `[B]`, in multiples of its largest: these make up for draws that are
    not uniform over N (Schaul et al. 2016, §3.4).

    Args:
      beta: how much of the bias to correct, scalar in [0, 1].
    """
    weight = (number * probability) ** -beta
    return weight / jnp.max(weight)
