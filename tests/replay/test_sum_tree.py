"""Sums, draws and weights against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamerzero.replay import sum_tree

write = jax.jit(sum_tree.write)


def tree_of(masses):
    masses = jnp.asarray(masses, jnp.float32)
    return sum_tree.write(sum_tree.init(len(masses)), jnp.arange(len(masses)), masses)


MASSES = st.lists(st.tuples(st.integers(0, 4), st.floats(0, 100, width=32)), min_size=3, max_size=3)


@settings(max_examples=40, deadline=None)
@given(st.lists(MASSES, max_size=8))
def test_every_node_is_the_sum_of_its_children_and_a_leaf_named_twice_gets_its_largest(changes):
    tree, expected = sum_tree.init(5), np.zeros(8, np.float32)
    for change in changes:
        leaves, masses = map(np.asarray, zip(*change, strict=True))
        tree = write(tree, leaves, masses.astype(np.float32))
        for leaf in set(leaves.tolist()):
            expected[leaf] = masses[leaves == leaf].max()
    nodes = np.asarray(tree)
    np.testing.assert_array_equal(nodes[8:], expected)
    for node in range(1, 8):
        assert nodes[node] == nodes[2 * node] + nodes[2 * node + 1]


@pytest.mark.parametrize("number", [1, 2, 5, 8])
def test_draws_are_spread_in_proportion(number):
    masses = np.arange(1.0, number + 1)
    tree = tree_of(masses)
    assert tree[1] == masses.sum()
    leaves, probability = sum_tree.draw(tree, jax.random.key(0), 10_000)
    share = np.bincount(leaves, minlength=number) / 10_000
    np.testing.assert_allclose(share, masses / masses.sum(), atol=2e-4)  # stratified
    np.testing.assert_allclose(probability, (masses / masses.sum())[leaves], rtol=1e-6)
    beginning = np.bincount(leaves[:2500], minlength=number) / 2500
    np.testing.assert_allclose(beginning, share, atol=0.04)  # in no order


def test_weights_make_up_for_draws_that_are_not_uniform():
    probability = np.array([0.1, 0.4, 0.2, 0.3])
    expected = (4 * probability) ** -0.4
    weights = sum_tree.weights(jnp.asarray(probability), 4, 0.4)
    np.testing.assert_allclose(weights, expected / expected.max(), rtol=1e-5)
    np.testing.assert_array_equal(sum_tree.weights(jnp.asarray(probability), 4, 0.0), 1.0)


def test_rounding_never_draws_what_has_no_mass(monkeypatch):
    """The largest jitter below one rounds to the whole mass, beyond the last leaf that has any."""
    masses = np.array([2.0, 1.0, 0.0, 3.0, 0.0])
    monkeypatch.setattr(jax.random, "uniform", lambda _, shape: jnp.full(shape, 1 - 2**-24))
    leaves, _ = sum_tree.draw(tree_of(masses), jax.random.key(0), 512)
    assert np.all(masses[np.asarray(leaves)] > 0)


def test_lanes_of_a_vmap_are_single_trees():
    masses = jax.random.uniform(jax.random.key(1), (3, 6))

    def draw(masses):
        return sum_tree.draw(tree_of(masses), jax.random.key(2), 8)

    lanes = jax.jit(jax.vmap(draw))(masses)
    for lane in range(3):
        leaves, probability = jax.jit(draw)(masses[lane])
        np.testing.assert_array_equal(lanes[0][lane], leaves)
        np.testing.assert_allclose(lanes[1][lane], probability, rtol=1e-6)
