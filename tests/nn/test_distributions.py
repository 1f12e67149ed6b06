"""What a policy network's numbers mean as a distribution over actions."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from dreamerzero.nn import distributions
from dreamerzero.types import Box, Discrete


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3])
def test_a_discrete_policy_is_a_softmax_mixed_with_the_uniform_one(share):
    logits = 5.0 * np.random.default_rng(0).normal(size=(6, 4))
    policy = distributions.policy(jnp.float32(logits), Discrete(4), share)
    expected = (1 - share) * special.softmax(logits, axis=-1) + share / 4
    np.testing.assert_allclose(policy.probs, expected, rtol=1e-4)
    log_prob = [policy.log_prob(jnp.full(6, action)) for action in range(4)]
    np.testing.assert_allclose(np.transpose(log_prob), np.log(expected), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(policy.entropy(), stats.entropy(expected, axis=-1), rtol=1e-4)


def test_a_continuous_policy_is_a_normal_around_a_tanh():
    rng = np.random.default_rng(0)
    mu, width, action = rng.normal(size=(3, 6, 2))
    outputs = jnp.float32(np.concatenate([mu, width], axis=-1))
    policy = distributions.policy(outputs, Box((2,), low=-1.0, high=1.0), 0.3)
    std = 0.1 + 0.9 * special.expit(width + 2.0)
    expected = stats.norm.logpdf(action, np.tanh(mu), std).sum(axis=-1)
    np.testing.assert_allclose(policy.log_prob(jnp.float32(action)), expected, rtol=1e-4)
    np.testing.assert_allclose(
        policy.entropy(), stats.norm.entropy(scale=std).sum(axis=-1), rtol=1e-4
    )
    np.testing.assert_allclose(policy.mode(), np.tanh(mu), rtol=1e-5)


def test_a_continuous_policy_is_neither_certain_nor_wider_than_its_bounds():
    outputs = jnp.float32([[0.0, -100.0], [100.0, 100.0], [-100.0, -2.0]])
    policy = distributions.policy(outputs, Box((1,), low=-1.0, high=1.0), 0.0)
    np.testing.assert_allclose(policy.mean()[:, 0], [0.0, 1.0, -1.0])
    np.testing.assert_allclose(policy.stddev()[:, 0], [0.1, 1.0, 0.55], rtol=1e-6)
