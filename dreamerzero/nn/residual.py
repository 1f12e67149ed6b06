"""Residual networks (He et al. 2016) over grids that keep their sides, and heads that read them."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from dreamerzero.nn.networks import MLP, Conv, Dense, NormAct


class ResNet(nn.Module):
    """Grids `[..., H, W, C]` to `[..., H, W, channels]`: `blocks` residual blocks, behind a layer
    that brings any C to `channels` unless there is no `stem`."""

    blocks: int
    channels: int
    stem: bool = True

    @nn.compact
    def __call__(self, x):
        batch = x.shape[:-3]
        x = x.reshape(-1, *x.shape[-3:])
        if self.stem:
            x = NormAct()(Conv(self.channels, 3)(x))
        for _ in range(self.blocks):
            x = ResidualBlock()(x)
        return x.reshape(*batch, *x.shape[1:]).astype(jnp.float32)


class ResidualBlock(nn.Module):
    """act(x + norm(conv(act(norm(conv(x)))))) with 3×3 convolutions, on `[B, H, W, C]`."""

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        y = NormAct()(Conv(channels, 3)(x))
        y = nn.RMSNorm(epsilon=1e-4, dtype=jnp.float32)(Conv(channels, 3)(y))
        return nn.silu(x + y.astype(x.dtype))


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
