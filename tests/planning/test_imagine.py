"""Returns of dreams, against a loop in a world whose steps are known."""

import jax
import jax.numpy as jnp
import numpy as np

from dreamerzero.planning import imagined_return
from dreamerzero.types import Prediction

FATE = jnp.array([[0.9, 1.0, 0.5], [0.99, 0.8, 0.0]])  # how likely each dream goes on, a step


def step(key, action, latent):
    latent = latent + action + 0.1 * jax.random.normal(key, latent.shape)
    return Prediction(jnp.square(latent), FATE), latent


def act(key, latent):
    return jnp.tanh(latent)


def test_a_return_counts_what_is_likely_to_be_reached():
    key, start = jax.random.key(0), jnp.arange(6.0).reshape(2, 3)
    found, steps = jax.jit(lambda horizon: imagined_return(key, act, step, start, (2, 3), horizon))(
        20
    )
    latent, alive, expected = start, np.ones((2, 3)), np.zeros((2, 3))
    for time in range(20):
        _, step_key = jax.random.split(jax.random.fold_in(key, time))
        prediction, latent = step(step_key, act(None, latent), latent)
        expected += alive * np.float64(prediction.reward)
        alive *= np.float64(FATE)
    assert steps == 20
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_nobody_waits_for_what_is_hardly_ever_reached():
    def ends(key, action, latent):
        return Prediction(jnp.ones(4), jnp.full(4, 0.1)), latent

    start = jnp.zeros(4)
    returns, steps = imagined_return(jax.random.key(0), act, ends, start, (4,), 1000)
    assert steps <= 4
    np.testing.assert_allclose(returns, 1 / 0.9, atol=2e-3)
