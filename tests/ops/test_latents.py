from functools import partial

import distrax
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


def test_nothing_mixed_in_is_the_log_softmax_with_its_gradient_however_far_apart_the_logits():
    logits = jnp.array([[0.0, -300.0, 1.0], [200.0, 0.0, 0.0]])

    def kl(unimix):
        return lambda p, q: ops.categorical_kl(unimix(p), unimix(q))

    def plain(logits, fraction=0.0):
        return jax.nn.log_softmax(logits)

    np.testing.assert_allclose(ops.unimix(logits, 0.0), plain(logits), rtol=1e-6)
    ours, oracle = (
        jax.jit(jax.grad(kl(partial(f, fraction=jnp.float32(0.0))), (0, 1)))(logits, -logits)
        for f in (ops.unimix, plain)
    )
    assert np.isfinite(oracle).all()
    np.testing.assert_allclose(ours, oracle, rtol=1e-5, atol=1e-6)


def test_kl_matches_scipy():
    p, q = log_probs(0), log_probs(1)
    expected = scipy.stats.entropy(np.exp(p), np.exp(q), axis=-1).sum(-1)
    np.testing.assert_allclose(ops.categorical_kl(p, q), expected, rtol=1e-4)


def test_gaussian_kl_matches_distrax():
    keys = jax.random.split(jax.random.key(0), 4)
    mean_p, mean_q = (jax.random.normal(key, (5, 3)) for key in keys[:2])
    std_p, std_q = (jnp.exp(jax.random.normal(key, (5, 3))) for key in keys[2:])
    p, q = (
        distrax.MultivariateNormalDiag(mean, std)
        for mean, std in ((mean_p, std_p), (mean_q, std_q))
    )
    kl = ops.gaussian_kl((mean_p, std_p), (mean_q, std_q))
    np.testing.assert_allclose(kl, p.kl_divergence(q), rtol=1e-4)
    assert not ops.gaussian_kl((mean_p, std_p), (mean_p, std_p)).any()


def test_balanced_kl_sends_each_gradient_to_its_side():
    p, q = log_probs(0), log_probs(1)
    dyn, rep = ops.balanced_kl(ops.categorical_kl, p, q)
    np.testing.assert_array_equal(dyn, ops.categorical_kl(p, q))
    np.testing.assert_array_equal(dyn, rep)

    def grads(term):
        return jax.grad(lambda p, q: ops.balanced_kl(ops.categorical_kl, p, q)[term].sum(), (0, 1))(
            p, q
        )

    (dyn_p, dyn_q), (rep_p, rep_q) = grads(0), grads(1)
    whole_p, whole_q = jax.grad(lambda p, q: ops.categorical_kl(p, q).sum(), (0, 1))(p, q)
    assert not dyn_p.any() and not rep_q.any()
    np.testing.assert_array_equal(rep_p, whole_p)
    np.testing.assert_array_equal(dyn_q, whole_q)


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
