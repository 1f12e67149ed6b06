import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from dreamerzero import ops


def log_probs(seed, shape=(5, 4, 6)):
    return jax.nn.log_softmax(2.0 * jax.random.normal(jax.random.key(seed), shape))


def test_unimix_is_a_mixture():
    logits = 10.0 * jax.random.normal(jax.random.key(0), (5, 6))
    mixed = jnp.exp(ops.unimix(logits, 0.01))
    np.testing.assert_allclose(mixed, 0.99 * jax.nn.softmax(logits) + 0.01 / 6, rtol=1e-5)
    assert mixed.min() >= 0.01 / 6 - 1e-7


def test_kl_matches_scipy():
    p, q = log_probs(0), log_probs(1)
    expected = scipy.stats.entropy(np.exp(p), np.exp(q), axis=-1).sum(-1)
    np.testing.assert_allclose(ops.categorical_kl(p, q), expected, rtol=1e-4)


def test_balanced_kl_sends_each_gradient_to_its_side_and_frees_each_state_alone():
    p = log_probs(0).at[0].set(log_probs(1)[0])  # state 0 agrees: its KL is below the free nats
    q = log_probs(1)
    dyn, rep = ops.balanced_kl(p, q, 1.0)
    np.testing.assert_allclose(dyn, np.maximum(ops.categorical_kl(p, q), 1.0), rtol=1e-5)
    np.testing.assert_allclose(dyn, rep)
    assert dyn[0] == 1.0 and dyn[1:].min() > 1.0
    dyn_p, dyn_q = jax.grad(lambda p, q: ops.balanced_kl(p, q, 1.0)[0].sum(), (0, 1))(p, q)
    rep_p, rep_q = jax.grad(lambda p, q: ops.balanced_kl(p, q, 1.0)[1].sum(), (0, 1))(p, q)
    assert not dyn_p.any() and not rep_q.any()
    assert not dyn_q[0].any() and not rep_p[0].any()
    assert dyn_q[1:].any() and rep_p[1:].any()


def test_straight_through_samples_one_hot_with_the_gradient_of_the_probabilities():
    logits = jax.random.normal(jax.random.key(0), (3, 6))
    noise = jax.random.gumbel(jax.random.key(1), (3, 6))
    weights = jax.random.normal(jax.random.key(2), (3, 6))

    def through_sample(logits):
        return jnp.sum(weights * ops.straight_through(jax.nn.log_softmax(logits), noise))

    sample = ops.straight_through(jax.nn.log_softmax(logits), noise)
    np.testing.assert_array_equal(jnp.sort(sample)[:, -1], 1.0)
    np.testing.assert_allclose(sample.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(
        jax.grad(through_sample)(logits),
        jax.grad(lambda x: jnp.sum(weights * jax.nn.softmax(x)))(logits),
        atol=1e-6,
    )


def test_straight_through_samples_with_the_right_frequency():
    logits = jnp.array([0.0, 1.0, 2.0])
    noise = jax.random.gumbel(jax.random.key(1), (20_000, 3))
    sample = ops.straight_through(jnp.broadcast_to(jax.nn.log_softmax(logits), noise.shape), noise)
    np.testing.assert_allclose(sample.mean(0), jax.nn.softmax(logits), atol=0.015)
