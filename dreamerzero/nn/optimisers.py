"""Gradient transformations that optax lacks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def clip_by_tensor_norm(ratio, minimum=1e-3) -> optax.GradientTransformation:
    """Adaptive gradient clipping (Brock et al. 2021), each tensor as one unit as in DreamerV3.

    g ← g · min(1, ratio · max(minimum, ‖p‖) / ‖g‖)
    """

    def update(updates, state, params):
        def clip(g, p):
            limit = ratio * jnp.maximum(minimum, jnp.linalg.norm(p.ravel()))
            return g / jnp.maximum(1.0, jnp.linalg.norm(g.ravel()) / limit)

        return jax.tree.map(clip, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def laprop(learning_rate, beta1=0.9, beta2=0.999, eps=1e-20) -> optax.GradientTransformation:
    """LaProp (Ziyin et al. 2020): RMS-normalise first, then momentum; both bias-corrected."""
    return optax.chain(
        optax.scale_by_rms(decay=beta2, eps=eps, eps_in_sqrt=False, bias_correction=True),
        optax.ema(beta1, debias=True),
        optax.scale_by_learning_rate(learning_rate),
    )


def rising(learning_rate, warmup):
    """A learning rate that reaches its value after `warmup` updates, linearly."""
    return lambda count: learning_rate * jnp.minimum(1.0, (count + 1) / warmup)


def falling(learning_rate, updates):
    """A learning rate that falls like 1 / √(1 + count / `updates`): ever slower, and never to 0."""
    return lambda count: learning_rate / jnp.sqrt(1.0 + count / updates)
