"""Mixtures of normals, their density and their samples, against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from dreamerzero.nn import distributions

log_prob = jax.jit(lambda outputs, x: distributions.mixture(outputs).log_prob(x))
draw = jax.jit(
    lambda outputs, tau, key: jax.vmap(distributions.mixture_sample, (0, None, None))(
        jax.random.split(key, 40_000), outputs, tau
    )
)


def parts(outputs, tau):
    """Weights, means and standard deviations `[..., D, K]` in float64."""
    logits, mean, log_std = np.moveaxis(np.float64(outputs), -2, 0)
    weights = np.exp(logits / tau)
    return weights / weights.sum(-1, keepdims=True), mean, np.exp(log_std) * np.sqrt(tau)


def test_the_density_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    outputs, x = rng.normal(size=(4, 6, 3, 5)), 2.0 * rng.normal(size=(4, 6))
    found = log_prob(jnp.float32(outputs), jnp.float32(x))
    weights, mean, std = parts(outputs, 1.0)
    for row in range(4):
        expected = 0.0
        for d in range(6):
            densities = [
                weights[row, d, k] * stats.norm.pdf(x[row, d], mean[row, d, k], std[row, d, k])
                for k in range(5)
            ]
            expected += np.log(sum(densities))
        np.testing.assert_allclose(found[row], expected, rtol=1e-4)


def test_far_away_the_density_is_small_and_not_zero():
    outputs = jnp.zeros((1, 3, 2))
    np.testing.assert_allclose(log_prob(outputs, jnp.array([50.0])), -1250.919, rtol=1e-5)


@pytest.mark.parametrize("tau", [0.1, 1.0, 1.3])
def test_samples_have_the_moments_and_the_quantiles_of_the_density(tau):
    rng = np.random.default_rng(1)
    outputs = jnp.float32(rng.normal(size=(2, 3, 3)) * np.array([1.0, 3.0, 0.5])[:, None])
    drawn = np.asarray(draw(outputs, tau, jax.random.key(0)))
    weights, mean, std = parts(outputs, tau)
    first = (weights * mean).sum(-1)
    second = (weights * (mean**2 + std**2)).sum(-1) - first**2
    np.testing.assert_allclose(drawn.mean(0), first, atol=0.05)
    np.testing.assert_allclose(drawn.std(0), np.sqrt(second), rtol=0.03)
    edges = np.linspace(-15.0, 15.0, 6001)
    for d in range(2):
        normals = stats.norm.pdf(edges[:, None], mean[d], std[d])
        mass = integrate.cumulative_trapezoid(normals @ weights[d], edges, initial=0.0)
        np.testing.assert_allclose(mass[-1], 1.0, atol=1e-3)
        uniform = np.interp(drawn[:, d], edges, mass)
        assert stats.kstest(uniform, "uniform").statistic < 0.015


def test_without_heat_only_the_likeliest_mean_is_left():
    outputs = jnp.array([[[0.0, 1.0, 0.9], [-2.0, 3.0, 7.0], [0.0, 0.0, 0.0]]])
    np.testing.assert_allclose(draw(outputs, 1e-6, jax.random.key(0)), 3.0, atol=0.01)
    hot = draw(outputs, 1e6, jax.random.key(0))
    assert hot.std() > 500  # √τ
