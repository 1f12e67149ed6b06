"""Scalars of any size as network outputs: squashed by symlog or h, in classes over bins."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def symlog(x):
    """sign(x) · ln(1 + |x|) (Hafner et al. 2023, eq. 9)."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x):
    """The inverse of `symlog`."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def signed_hyperbolic(x, eps=1e-3):
    """h(x) = sign(x) · (√(|x| + 1) − 1) + ε x (Pohlen et al. 2018, proposition A.2)."""
    return jnp.sign(x) * (jnp.sqrt(jnp.abs(x) + 1.0) - 1.0) + eps * x


def signed_parabolic(x, eps=1e-3):
    """The inverse of `signed_hyperbolic`: sign(x) · (z² + 2z), where εz² + (1 + 2ε)z = |x|.

    The root is written so that no digits are lost near zero.
    """
    size, slope = jnp.abs(x), 1.0 + 2.0 * eps
    z = 2.0 * size / (slope + jnp.sqrt(slope**2 + 4.0 * eps * size))
    return jnp.sign(x) * z * (z + 2.0)


def symexp_bins(num: int, limit: float) -> np.ndarray:
    """`[num]` bin centres, symexp of an even grid over ±limit (Hafner et al. 2023, eq. 10).

    Mirrored around an exact zero, so that `two_hot_mean` of even logits is exactly zero.
    """
    if num % 2 == 0:
        raise ValueError(f"The number of bins must be odd to have one at zero; got {num}.")
    negative = -np.expm1(np.linspace(limit, 0.0, num // 2 + 1))
    return np.concatenate([negative, -negative[-2::-1]]).astype(np.float32)


def two_hot(x, bins):
    """Spreads `x [...]` over the two nearest of `bins [K]`: `[..., K]` weights with mean `x`.

    Values beyond the outermost bins go to them whole.
    """
    bins = jnp.asarray(bins)
    x = jnp.clip(x, bins[0], bins[-1])
    above = jnp.clip(jnp.searchsorted(bins, x, side="right"), 1, len(bins) - 1)
    low, high = bins[above - 1], bins[above]
    weight = ((x - low) / (high - low))[..., None]
    num = len(bins)
    return jax.nn.one_hot(above - 1, num) * (1 - weight) + jax.nn.one_hot(above, num) * weight


def categorical_projection(z, probs, bins):
    """The distribution over `bins [K]` that is nearest to one over other places, with the same mean
    as long as these are within the bins (Bellemare et al. 2017, eq. 7).

    Args:
      z, probs: places and their probabilities, `[..., N]`.
    Returns:
      Probabilities `[..., K]`.
    """
    return jnp.sum(probs[..., None] * two_hot(z, bins), axis=-2)


def two_hot_loss(logits, x, bins):
    """Cross-entropy of `logits [..., K]` against the two-hot of `x [...]`, without its gradient."""
    target = jax.lax.stop_gradient(two_hot(x, bins))
    return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)


def two_hot_mean(logits, bins):
    """The expected value `[...]` of `logits [..., K]`.

    Mirrored bins are summed in pairs first: summed in order, the huge outer bins would leave a
    rounding error far larger than the values that matter.
    """
    weighted = jax.nn.softmax(logits) * bins
    middle = len(bins) // 2
    pairs = weighted[..., :middle][..., ::-1] + weighted[..., middle + 1 :]
    return jnp.sum(pairs, axis=-1)
