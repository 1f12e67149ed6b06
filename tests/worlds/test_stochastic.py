import jax
import jax.numpy as jnp
import numpy as np

from dreamerzero.worlds.stochastic import Categorical, Gaussian


def test_a_gaussian_sample_has_its_moments_and_passes_gradients():
    latent = Gaussian(2)
    outputs = jnp.array([1.0, -2.0, 0.5, -3.0])
    mean, std = distribution = latent.distribution(outputs)
    np.testing.assert_allclose(std, 0.1 + np.log1p(np.exp([0.5, -3.0])), rtol=1e-6)
    noise = latent.noise(jax.random.key(0), (20_000,))
    samples = latent.sample(distribution, noise)
    np.testing.assert_allclose(samples.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(samples.std(0), std, rtol=0.03)
    grad = jax.grad(lambda x: latent.sample(latent.distribution(x), noise[0]).sum())(outputs)
    np.testing.assert_allclose(grad[:2], 1.0)
    np.testing.assert_allclose(grad[2:], noise[0] * jax.nn.sigmoid(outputs[2:]), rtol=1e-5)


def test_a_categorical_draws_every_variable_on_its_own():
    latent = Categorical(3, 4, unimix=0.1)
    distribution = latent.distribution(jax.random.normal(jax.random.key(0), (12,)))
    sample = latent.sample(distribution, latent.noise(jax.random.key(1), (20_000,)))
    assert sample.shape == (20_000, *latent.shape) == (20_000, 3, 4)
    np.testing.assert_allclose(sample.mean(0), jnp.exp(distribution), atol=0.015)
