import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from dreamerzero import ops
from dreamerzero.nn.heads import Support, bernoulli_loss


@pytest.mark.parametrize("x", [-300.0, -1.7, 0.0, 0.4, 12.0, 250.0])
def test_what_a_support_is_taught_it_says(x):
    head = Support(20)
    target = rlax.transform_to_2hot(ops.signed_hyperbolic(jnp.float32(x)), -20.0, 20.0, 41)
    outputs = jnp.log(target + 1e-12)
    np.testing.assert_allclose(head.mean(outputs), x, rtol=1e-3, atol=1e-3)
    grad = jax.grad(head.loss)(outputs, jnp.float32(x))
    np.testing.assert_allclose(grad, 0.0, atol=1e-4)
    assert jax.grad(head.loss, argnums=1)(outputs, jnp.float32(x)) == 0.0


def test_even_outputs_mean_zero():
    head = Support(20)
    assert head.num == 41
    assert head.mean(jnp.zeros((3, 41))).tolist() == [0.0] * 3


def test_bernoulli_loss_is_the_cross_entropy():
    logit, target = np.array([-2.0, 0.5, 9.0]), np.array([0.3, 1.0, 1.0])
    p = 1 / (1 + np.exp(-logit))
    expected = -(target * np.log(p) + (1 - target) * np.log(1 - p))
    np.testing.assert_allclose(bernoulli_loss(jnp.float32(logit), target), expected, rtol=1e-4)
