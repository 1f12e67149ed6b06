"""Observations as networks take them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dreamerzero import ops
from dreamerzero.types import Box, Discrete


def network_input(observation, spec: Box | Discrete):
    """Integers one-hot, vectors symlog, images `[..., H, W, C]` in [−0.5, 0.5]."""
    if isinstance(spec, Discrete):
        return jax.nn.one_hot(observation, spec.num)
    if len(spec.shape) == 1:
        return ops.symlog(observation.astype(jnp.float32))
    image = unit_range(observation, spec) - 0.5
    return image if len(spec.shape) == 3 else image[..., None]


def unit_range(image, spec: Box):
    """From the bounds of an image's space to [0, 1]."""
    return (image.astype(jnp.float32) - spec.low) / (spec.high - spec.low)
