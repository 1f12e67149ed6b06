import jax.numpy as jnp
import numpy as np
import optax

from dreamerzero.nn.optimisers import clip_by_tensor_norm, falling, laprop, rising


def test_agc_and_laprop_match_a_float64_loop():
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(4, 3)), "b": np.zeros(3)}
    grads = [
        {"w": rng.normal(size=(4, 3)) * 10.0 ** -(i % 5), "b": rng.normal(size=3)}
        for i in range(30)
    ]
    lr, warmup, ratio = 1e-2, 10, 0.3

    expected = {name: p.copy() for name, p in params.items()}
    nu = {name: np.zeros_like(p) for name, p in params.items()}
    mu = {name: np.zeros_like(p) for name, p in params.items()}
    for t, grad in enumerate(grads, 1):
        for name, p in expected.items():
            limit = ratio * max(1e-3, np.linalg.norm(p))
            g = grad[name] / max(1.0, np.linalg.norm(grad[name]) / limit)
            nu[name] = 0.999 * nu[name] + 0.001 * g**2
            scaled = g / (np.sqrt(nu[name] / (1 - 0.999**t)) + 1e-20)
            mu[name] = 0.9 * mu[name] + 0.1 * scaled
            p -= lr * min(1.0, t / warmup) * mu[name] / (1 - 0.9**t)

    ours = {name: jnp.float32(p) for name, p in params.items()}
    optimiser = optax.chain(clip_by_tensor_norm(ratio), laprop(rising(lr, warmup)))
    state = optimiser.init(ours)
    for grad in grads:
        grad = {name: jnp.float32(g) for name, g in grad.items()}
        updates, state = optimiser.update(grad, state, ours)
        ours = optax.apply_updates(ours, updates)
    for name in params:
        np.testing.assert_allclose(ours[name], expected[name], rtol=2e-3, atol=2e-5)


def test_a_small_gradient_is_not_clipped():
    params = {"w": jnp.ones(4)}
    grads = {"w": 0.1 * jnp.ones(4)}
    clip = clip_by_tensor_norm(0.3)
    clipped, _ = clip.update(grads, clip.init(params), params)
    np.testing.assert_array_equal(clipped["w"], grads["w"])
    clipped, _ = clip.update({"w": 100.0 * jnp.ones(4)}, clip.init(params), params)
    np.testing.assert_allclose(jnp.linalg.norm(clipped["w"]), 0.3 * 2.0, rtol=1e-5)


def test_a_falling_rate_never_reaches_zero():
    rate = falling(0.1, 1000.0)
    np.testing.assert_allclose([rate(0), rate(3000), rate(99_000)], [0.1, 0.05, 0.01], rtol=1e-6)
