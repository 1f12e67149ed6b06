"""Categorical latents: mixing with uniform, straight-through samples, balanced KL."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def unimix(logits, fraction):
    """Log-probabilities `[..., C]` of `logits` mixed with a `fraction` of the uniform distribution.

    Keeps every class possible, hence every KL and log-probability finite (Hafner et al. 2023).
    """
    probs = jax.nn.softmax(logits)
    return jnp.log((1 - fraction) * probs + fraction / logits.shape[-1])


def straight_through(log_probs, gumbel):
    """A one-hot sample `[..., C]` whose gradient is that of the probabilities (Bengio et al. 2013).

    Args:
      log_probs: normalised, `[..., C]`.
      gumbel: standard Gumbel noise of the same shape; zeros give the mode.
    """
    index = jnp.argmax(log_probs + gumbel, axis=-1)
    probs = jnp.exp(log_probs)
    sample = jax.nn.one_hot(index, log_probs.shape[-1], dtype=probs.dtype)
    return sample + probs - jax.lax.stop_gradient(probs)


def categorical_kl(p, q):
    """KL(p ‖ q) `[...]` of log-probabilities `[..., S, C]`, summed over the S variables."""
    return jnp.sum(jnp.exp(p) * (p - q), axis=(-2, -1))


def balanced_kl(posterior, prior, free_nats):
    """The dynamics and representation losses, `[...]` each (Hafner et al. 2023, eq. 3).

    dyn = max(free, KL(sg(post) ‖ prior)),  rep = max(free, KL(post ‖ sg(prior)))

    Args:
      posterior, prior: log-probabilities `[..., S, C]`.
      free_nats: KL below which nothing is pushed, for each state on its own.
    """
    sg = jax.lax.stop_gradient
    dyn = categorical_kl(sg(posterior), prior)
    rep = categorical_kl(posterior, sg(prior))
    return jnp.maximum(dyn, free_nats), jnp.maximum(rep, free_nats)
