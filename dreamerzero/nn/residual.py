"""Residual networks (He et al. 2016) over grids that keep their sides, and heads that read them.

What passes between the places of a grid is one of two layers: a 3×3 convolution `conv`, or `lines`.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from dreamerzero.nn.networks import MLP, Conv, Dense, NormAct


class ResNet(nn.Module):
    """Grids `[..., H, W, C]` to `[..., H, W, channels]`: `blocks` residual blocks, behind a layer
    that brings any C to `channels` unless there is no `stem`."""

    blocks: int
    channels: int
    layer: str
    stem: bool = True

    @nn.compact
    def __call__(self, x):
        batch = x.shape[:-3]
        x = x.reshape(-1, *x.shape[-3:])
        if self.stem:
            x = NormAct()(_layer(self.layer, self.channels)(x))
        for _ in range(self.blocks):
            x = ResidualBlock(self.layer)(x)
        return x.reshape(*batch, *x.shape[1:]).astype(jnp.float32)


class ResidualBlock(nn.Module):
    """act(x + norm(layer(act(norm(layer(x)))))) on `[B, H, W, C]`."""

    layer: str

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        y = NormAct()(_layer(self.layer, channels)(x))
        y = nn.RMSNorm(epsilon=1e-4, dtype=jnp.float32)(_layer(self.layer, channels)(y))
        return nn.silu(x + y.astype(x.dtype))


def _layer(kind: str, channels: int):
    return Lines(channels) if kind == "lines" else Conv(channels, 3)


class Lines(nn.Module):
    """A linear layer from each row `[W, C]` to all its places `[W, features]`, the same for every
    row, and one for the columns, added: `[B, H, W, C] -> [B, H, W, features]`."""

    features: int

    @nn.compact
    def __call__(self, x):
        def along(x):
            lines = Dense(x.shape[-2] * self.features)(x.reshape(*x.shape[:-2], -1))
            return lines.reshape(*x.shape[:-1], self.features)

        return along(x) + along(x.swapaxes(1, 2)).swapaxes(1, 2)


class GridHead(nn.Module):
    """`outputs` numbers of a grid `[..., H, W, C]`: its channels come down to a quarter, place by
    place, and an MLP with one hidden layer sees all places."""

    units: int
    outputs: int
    output_scale: float = 1.0

    @nn.compact
    def __call__(self, x):
        x = Dense(max(1, x.shape[-1] // 4))(x)
        # Over the whole grid: of few channels little would be left if each place had its own norm.
        x = NormAct(axes=(-3, -2, -1))(x)
        flat = x.reshape(*x.shape[:-3], -1)
        return MLP(1, self.units, self.outputs, self.output_scale)(flat)
