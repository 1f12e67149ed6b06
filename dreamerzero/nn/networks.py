"""Layers and bodies (linen). Everything is dense → RMSNorm → SiLU unless `act` says otherwise."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


def compute_dtype():
    """bfloat16 where there is hardware for it; on a CPU it is slower than float32."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def fan_in(scale: float = 1.0, **kwargs):
    """Truncated normal with standard deviation `scale / √fan_in`; zeros for scale 0."""
    if scale == 0.0:
        return nn.initializers.zeros
    return nn.initializers.variance_scaling(scale**2, "fan_in", "truncated_normal", **kwargs)


class Dense(nn.Module):
    """A linear layer; float32 parameters, `compute_dtype` arithmetic."""

    features: int
    scale: float = 1.0

    @nn.compact
    def __call__(self, x):
        dtype = compute_dtype()
        return nn.Dense(self.features, kernel_init=fan_in(self.scale), dtype=dtype)(x)


class NormAct(nn.Module):
    """RMSNorm (in float32, ε = 1e-4) over `axes`, then SiLU; or `elu` alone, as before v3."""

    act: str = "norm_silu"
    axes: int | tuple[int, ...] = -1

    @nn.compact
    def __call__(self, x):
        if self.act == "elu":
            return nn.elu(x)
        norm = nn.RMSNorm(
            epsilon=1e-4, dtype=jnp.float32, reduction_axes=self.axes, feature_axes=self.axes
        )
        return nn.silu(norm(x)).astype(x.dtype)


class MLP(nn.Module):
    """`layers` hidden layers of `units`; with `outputs`, a linear layer on top, in float32."""

    layers: int
    units: int
    outputs: int | None = None
    output_scale: float = 1.0
    act: str = "norm_silu"

    @nn.compact
    def __call__(self, x):
        for _ in range(self.layers):
            x = NormAct(self.act)(Dense(self.units)(x))
        if self.outputs is None:
            return x
        return Dense(self.outputs, self.output_scale)(x).astype(jnp.float32)


class BlockDense(nn.Module):
    """A linear layer with a block-diagonal kernel, block-major: `x [G, B, D/G] -> [G, B, F/G]`.

    Block g of the output sees block g of `x`, and all of `shared [B, S]` if that is given. The
    block axis leads because batched matrix products want it there: with it in the middle, the
    transpositions cost more than the products.
    """

    features: int

    @nn.compact
    def __call__(self, x, shared=None):
        dtype = compute_dtype()
        blocks, _, own = x.shape
        width = own + (0 if shared is None else shared.shape[-1])
        out = self.features // blocks
        kernel = self.param("kernel", fan_in(batch_axis=(0,)), (blocks, width, out)).astype(dtype)
        bias = self.param("bias", nn.initializers.zeros, (blocks, 1, out)).astype(dtype)
        y = jnp.einsum("gbi,gio->gbo", x.astype(dtype), kernel[:, :own]) + bias
        if shared is not None:
            shared = jnp.broadcast_to(shared.astype(dtype), (blocks, *shared.shape))
            y += jnp.einsum("gbi,gio->gbo", shared, kernel[:, own:])
        return y


class SplitDense(nn.Module):
    """One linear layer over several inputs, each with its rows of the kernel.

    Adding `layer(i, x_i)` over i is what a dense layer makes of their concatenation, but the parts
    can be computed at different places: inside a recurrence, and for all times at once.
    """

    inputs: tuple[int, ...]
    features: int

    @nn.compact
    def __call__(self, part: int, x):
        kernel = self.param("kernel", fan_in(), (sum(self.inputs), self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        start = sum(self.inputs[:part])
        dtype = compute_dtype()
        y = x.astype(dtype) @ kernel[start : start + self.inputs[part]].astype(dtype)
        return y + bias.astype(dtype) if part == 0 else y


class ConvEncoder(nn.Module):
    """Small images `[..., H, W, C]` to flat tokens: two 3×3 convolutions, the second strided."""

    depth: int

    @nn.compact
    def __call__(self, x):
        dtype = compute_dtype()
        batch = x.shape[:-3]
        x = x.reshape(-1, *x.shape[-3:])
        for depth, stride in ((self.depth, 1), (2 * self.depth, 2)):
            x = nn.Conv(depth, (3, 3), stride, kernel_init=fan_in(), dtype=dtype)(x)
            x = NormAct()(x)
        return x.reshape(*batch, -1)

    @staticmethod
    def num_outputs(shape, depth: int) -> int:
        """The number of tokens of an image `[H, W]` or `[H, W, C]`."""
        return -(-shape[0] // 2) * -(-shape[1] // 2) * 2 * depth
