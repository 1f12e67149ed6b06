"""Observations as networks take them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dreamerzero import ops
from dreamerzero.types import Box, Discrete


def is_picture(shape) -> bool:
    """Whether an image `[H, W, ...]` is a picture, no side under 32 pixels, and not a grid, whose
    channels say what is where."""
    return len(shape) > 1 and min(shape[:2]) >= 32


def network_input(observation, spec: Box | Discrete):
    """Integers one-hot, vectors symlog; images `[..., H, W, C]` in [0, 1] if they are grids, and
    pictures in [−0.5, 0.5].

    Most of a grid is 0. Were it −0.5, what all grids share would be most of what a layer sees: a
    latent model of 2048 then takes twice the updates to foretell rewards as well.
    """
    if isinstance(spec, Discrete):
        return jax.nn.one_hot(observation, spec.num)
    if len(spec.shape) == 1:
        return ops.symlog(observation.astype(jnp.float32))
    image = unit_range(observation, spec) - (0.5 if is_picture(spec.shape) else 0.0)
    return image if len(spec.shape) == 3 else image[..., None]


def augmented(key, image, spec: Box):
    """`image [H, W, ...]` as it might also look, in the units of its space: shifted each way by up
    to 4 of 84 pixels, its border repeated, and some 5% brighter or darker (Yarats et al. 2021).

    Sides under 11 pixels are not shifted: there a pixel is a place of its own.
    """
    shift_key, intensity_key = jax.random.split(key)
    most = np.array([round(4 * side / 84) for side in image.shape[:2]])
    rest = image.ndim - 2
    padded = jnp.pad(unit_range(image, spec), [(n, n) for n in most] + rest * [(0, 0)], mode="edge")
    corner = jax.random.randint(shift_key, (2,), 0, 2 * most + 1)
    shifted = jax.lax.dynamic_slice(padded, (*corner, *rest * (0,)), image.shape)
    noise = jnp.clip(jax.random.normal(intensity_key), -2.0, 2.0)
    return spec.low + (spec.high - spec.low) * (1.0 + 0.05 * noise) * shifted


def unit_range(image, spec: Box):
    """From the bounds of an image's space to [0, 1]."""
    return (image.astype(jnp.float32) - spec.low) / (spec.high - spec.low)
