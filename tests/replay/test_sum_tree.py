import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero.replay import sum_tree


@pytest.mark.parametrize("number", [1, 2, 5, 8])
def test_draws_are_spread_in_proportion(number):
    masses = np.arange(1.0, number + 1)
    tree = sum_tree.write(sum_tree.init(number), jnp.arange(number), jnp.asarray(masses))
    assert tree[1] == masses.sum()
    leaves, probability = sum_tree.draw(tree, jax.random.key(0), 10_000)
    share = np.bincount(leaves, minlength=number) / 10_000
    np.testing.assert_allclose(share, masses / masses.sum(), atol=2e-4)  # stratified
    np.testing.assert_allclose(probability, (masses / masses.sum())[leaves], rtol=1e-6)
