"""Stochastic latents: mixing with uniform, straight-through samples, KL and its balance."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def unimix(logits, fraction):
    """Log-probabilities `[..., C]` of `logits` mixed with a `fraction` of the uniform distribution.

    A fraction above 0 keeps every class possible, however far its logit is below the others
    (Hafner et al. 2023). At 0 these are the log-probabilities themselves, finite as the logits are.
    """
    share = jnp.log(fraction / logits.shape[-1])  # −∞ at 0, which adds nothing
    return jnp.logaddexp(jnp.log1p(-fraction) + jax.nn.log_softmax(logits), share)


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


def categorical_entropy(log_probs):
    """Entropy `[...]` of log-probabilities `[..., S, C]`, summed over the S variables."""
    return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=(-2, -1))


def gaussian_entropy(std):
    """Entropy `[...]` of independent normals with standard deviations `[..., S]`."""
    return jnp.sum(0.5 * math.log(2 * math.pi * math.e) + jnp.log(std), axis=-1)


def gaussian_kl(p, q):
    """KL(p ‖ q) `[...]` of independent normals, each a mean and a standard deviation `[..., S]`."""
    (mean_p, std_p), (mean_q, std_q) = p, q
    ratio = jnp.square(std_p / std_q)
    distance = jnp.square((mean_p - mean_q) / std_q)
    return 0.5 * jnp.sum(ratio + distance - 1.0 - jnp.log(ratio), axis=-1)


def balanced_kl(kl, posterior, prior):
    """The dynamics and representation terms, `[...]` each (Hafner et al. 2021, 2023, eq. 3).

    dyn = KL(sg(post) ‖ prior) teaches the prior,  rep = KL(post ‖ sg(prior)) the posterior

    Args:
      kl: of two distributions, `(p, q) -> [...]`.
      posterior, prior: distributions, in the form that `kl` takes.
    """
    fixed_posterior, fixed_prior = jax.lax.stop_gradient((posterior, prior))
    return kl(fixed_posterior, prior), kl(posterior, fixed_prior)
