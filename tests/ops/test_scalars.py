import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamerzero import ops

BINS = ops.symexp_bins(255, 20.0)


def two_hot_loop(x, bins):
    """In float64, by looking for the interval."""
    out = np.zeros(len(bins))
    x = float(np.clip(x, bins[0], bins[-1]))
    for i in range(len(bins) - 1):
        if bins[i] <= x <= bins[i + 1]:
            weight = (x - bins[i]) / (float(bins[i + 1]) - float(bins[i]))
            out[i], out[i + 1] = 1 - weight, weight
            return out
    raise AssertionError


@given(st.floats(-1e6, 1e6, width=32))
@settings(deadline=None, max_examples=200)
def test_symlog_and_symexp_are_inverse(x):
    np.testing.assert_allclose(ops.symexp(ops.symlog(jnp.float32(x))), x, rtol=2e-5, atol=1e-6)


def test_bins_are_mirrored_around_zero_and_grow():
    assert BINS[127] == 0.0
    np.testing.assert_array_equal(BINS, -BINS[::-1])
    assert np.all(np.diff(BINS) > 0)
    np.testing.assert_allclose(BINS[-1], np.expm1(20.0), rtol=1e-6)
    with pytest.raises(ValueError, match="odd"):
        ops.symexp_bins(64, 20.0)


@given(st.floats(-1e9, 1e9, width=32))
@settings(deadline=None, max_examples=200)
def test_two_hot_matches_a_float64_loop(x):
    np.testing.assert_allclose(
        ops.two_hot(jnp.float32(x), BINS), two_hot_loop(np.float32(x), BINS), atol=2e-5
    )


@pytest.mark.parametrize("x", [-4.0, -3.0, -0.2, 0.0, 0.7, 2.5, 3.0])
def test_two_hot_on_an_even_grid_matches_rlax(x):
    bins = np.linspace(-3.0, 3.0, 13, dtype=np.float32)
    np.testing.assert_allclose(
        ops.two_hot(jnp.float32(x), bins), rlax.transform_to_2hot(x, -3.0, 3.0, 13), atol=5e-5
    )


@given(st.floats(-1e8, 1e8, width=32))
@settings(deadline=None, max_examples=100)
def test_the_mean_of_a_two_hot_is_its_scalar(x):
    weights = ops.two_hot(jnp.float32(x), BINS)
    decoded = ops.two_hot_mean(jnp.log(jnp.maximum(weights, 1e-30)), BINS)
    np.testing.assert_allclose(decoded, x, rtol=1e-4, atol=1e-4)


def test_even_logits_mean_exactly_zero():
    # Summed in order, float32 leaves thousands here: the outer bins are ± 5e8.
    assert ops.two_hot_mean(jnp.zeros(255), BINS) == 0.0
    assert ops.two_hot_mean(jnp.full((3, 255), 7.3), BINS).tolist() == [0.0] * 3


def test_loss_gradient_is_softmax_minus_target():
    logits = jax.random.normal(jax.random.key(0), (255,))
    x = jnp.float32(12.3)
    grad = jax.grad(ops.two_hot_loss)(logits, x, BINS)
    np.testing.assert_allclose(grad, jax.nn.softmax(logits) - ops.two_hot(x, BINS), atol=1e-6)
    assert jax.grad(ops.two_hot_loss, argnums=1)(logits, x, BINS) == 0.0


@given(st.floats(-1e6, 1e6, width=32))
@settings(deadline=None, max_examples=200)
def test_h_matches_rlax_and_its_inverse_undoes_it(x):
    x = jnp.float32(x)
    squashed = ops.signed_hyperbolic(x)
    np.testing.assert_allclose(squashed, rlax.signed_hyperbolic(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ops.signed_parabolic(squashed), x, rtol=1e-4, atol=1e-6)


def test_the_inverse_of_h_is_the_published_one():
    """In float64: in float32 the published form has no digits left for small numbers."""
    eps = 1e-3
    x = np.concatenate([np.linspace(-50, 50, 101), [1e-3, -1e-2]])
    root = (np.sqrt(1 + 4 * eps * (np.abs(x) + 1 + eps)) - 1) / (2 * eps)
    published = np.sign(x) * (root**2 - 1)
    np.testing.assert_allclose(ops.signed_parabolic(jnp.float32(x)), published, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_projected_distribution_matches_rlax_and_keeps_its_mean(seed):
    rng = np.random.default_rng(seed)
    bins = jnp.sort(jnp.asarray(rng.uniform(-5, 5, 21), jnp.float32))
    z = jnp.asarray(rng.uniform(-7, 7, 11), jnp.float32)
    probs = jax.nn.softmax(jnp.asarray(rng.normal(size=11), jnp.float32))
    ours = ops.categorical_projection(z, probs, bins)
    np.testing.assert_allclose(ours, rlax.categorical_l2_project(z, probs, bins), atol=1e-5)
    inside = jnp.clip(z, bins[0], bins[-1])
    np.testing.assert_allclose(ours @ bins, probs @ inside, rtol=1e-4, atol=1e-5)
