"""Layers and bodies (linen). Everything is dense → RMSNorm → SiLU unless `act` says otherwise."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dreamerzero import ops
from dreamerzero.nn.observations import is_picture, network_input
from dreamerzero.types import Box, Discrete


def compute_dtype():
    """bfloat16 where there is hardware for it; on a CPU it is slower than float32."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def rows_at_once() -> int:
    """The `batch_size` with which `jax.lax.map` should send very many rows through a network.

    On a CPU so many that what is between the layers stays in the cache: 100,000 rows go through 4
    layers of 200 in 345 ms, not 480. Elsewhere 0, all at once: there a block is a wait.
    """
    return 512 if jax.default_backend() == "cpu" else 0


def fan_in(scale: float = 1.0, **kwargs):
    """Truncated normal with standard deviation `scale / √fan_in`; zeros for scale 0."""
    if scale == 0.0:
        return nn.initializers.zeros
    return nn.initializers.variance_scaling(scale**2, "fan_in", "truncated_normal", **kwargs)


def fan_in_flat(key, shape, dtype=jnp.float32):
    """`fan_in()` of a convolution's kernel, drawn as a matrix.

    Drawn with its four small axes, XLA takes 2 to 6 CPU-seconds to compile each, not half of one.
    """
    return fan_in()(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)


class Dense(nn.Module):
    """A linear layer; float32 parameters, arithmetic in `dtype` or else `compute_dtype`."""

    features: int
    scale: float = 1.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        dtype = self.dtype or compute_dtype()
        layer = nn.Dense(self.features, kernel_init=fan_in(self.scale), dtype=dtype)
        # By two axes at once the kernel's gradient would take up to three times its products.
        rows = x.reshape(-1, x.shape[-1])
        return layer(rows).reshape(*x.shape[:-1], self.features)


class NormAct(nn.Module):
    """RMSNorm (in float32, ε = 1e-4) over `axes`, then SiLU; or `elu` or `silu` alone."""

    act: str = "norm_silu"
    axes: int | tuple[int, ...] = -1

    @nn.compact
    def __call__(self, x):
        if self.act in ("elu", "silu"):
            return getattr(nn, self.act)(x)
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
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        for _ in range(self.layers):
            x = NormAct(self.act)(Dense(self.units, dtype=self.dtype)(x))
        if self.outputs is None:
            return x
        return Dense(self.outputs, self.output_scale, self.dtype)(x).astype(jnp.float32)


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
            y += jnp.einsum("bi,gio->gbo", shared.astype(dtype), kernel[:, own:])
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


class Conv(nn.Module):
    """A convolution `[B, H, W, C] -> [B, H', W', features]`, padded so that only `stride` makes the
    sides smaller; or with padding `VALID`, of whole windows alone."""

    features: int
    size: int
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x):
        dtype = compute_dtype()
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", fan_in_flat, shape).astype(dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(dtype)
        window, strides = (self.size, self.size), (self.stride, self.stride)
        padding = jax.lax.padtype_to_pads(x.shape[1:3], window, strides, self.padding)
        return ops.convolve(x.astype(dtype), kernel, self.stride, tuple(padding)) + bias


class ConvEncoder(nn.Module):
    """Small images `[..., H, W, C]` to flat tokens: two 3×3 convolutions, the second strided."""

    depth: int

    @nn.compact
    def __call__(self, x):
        batch = x.shape[:-3]
        x = x.reshape(-1, *x.shape[-3:])
        for depth, stride in ((self.depth, 1), (2 * self.depth, 2)):
            x = NormAct()(Conv(depth, 3, stride)(x))
        return x.reshape(*batch, -1)

    @staticmethod
    def num_outputs(shape, depth: int) -> int:
        """The number of tokens of an image `[H, W]` or `[H, W, C]`."""
        return -(-shape[0] // 2) * -(-shape[1] // 2) * 2 * depth


class LineEncoder(nn.Module):
    """Small images `[..., H, W, C]` to flat tokens: every row by itself, and every column, through
    two layers. What a whole line of a board decides, 3×3 convolutions have to piece together."""

    depth: int

    @nn.compact
    def __call__(self, x):
        batch, tokens = x.shape[:-3], []
        for lines in (x, x.swapaxes(-3, -2)):
            lines = lines.reshape(*lines.shape[:-2], -1)
            tokens.append(MLP(2, 2 * self.depth)(lines).reshape(*batch, -1))
        return jnp.concatenate(tokens, axis=-1)


CONVS = ("pool", "strided")
"""How the resolution of pictures changes: at the price of DreamerV3's layers, or cheaper."""

STAGES = (2, 3, 4, 4)
"""Channels of a picture's stages in units of `depth`; every stage halves its sides."""


def coarse(shape) -> tuple[int, int]:
    """The sides of what all stages leave of a picture `[H, W, ...]`; 4 × 4 for 64 × 64."""
    height, width = (-(-side // 2 ** len(STAGES)) for side in shape[:2])
    return height, width


class PictureEncoder(nn.Module):
    """Pictures `[..., H, W, C]` to flat tokens, in four stages (Hafner et al. 2023, appendix).

    `pool` is a 5×5 convolution and the largest of every 2×2 pixels; `strided` keeps every second
    place of a 4×4 convolution, which has the same number of taps on every pixel and a sixth of the
    arithmetic. Sides that are no multiple of 16 are padded at the bottom and the right.
    """

    depth: int
    conv: str
    act: str = "norm_silu"

    @nn.compact
    def __call__(self, x):
        *batch, height, width, channels = x.shape
        rows, columns = (side * 2 ** len(STAGES) for side in coarse((height, width)))
        x = x.reshape(-1, height, width, channels)
        x = jnp.pad(x, ((0, 0), (0, rows - height), (0, columns - width), (0, 0)))
        size, stride = (5, 1) if self.conv == "pool" else (4, 2)
        for stage in STAGES:
            x = Conv(stage * self.depth, size, stride)(x)
            if self.conv == "pool":
                x = _largest_of_four(x)
            x = NormAct(self.act)(x)
        return x.reshape(*batch, -1)

    @staticmethod
    def num_outputs(shape, depth: int) -> int:
        """The number of tokens of a picture `[H, W]` or `[H, W, C]`."""
        return math.prod(coarse(shape)) * STAGES[-1] * depth


class Encoder(nn.Module):
    """Observations `[..., *shape]` of any space to flat tokens, through convolutions if they are
    grids or pictures."""

    space: Box | Discrete
    depth: int

    @nn.compact
    def __call__(self, observation):
        x = network_input(observation, self.space)
        if is_picture(self.space.shape):
            return PictureEncoder(self.depth, "strided")(x)
        return ConvEncoder(self.depth)(x) if len(self.space.shape) > 1 else x


class EncoderMLP(nn.Module):
    """Observations `[..., *shape]` of any space to `[..., outputs]`, in float32 everywhere: of
    actors and critics small differences decide."""

    space: Box | Discrete
    outputs: int
    output_scale: float
    layers: int
    units: int
    depth: int

    @nn.compact
    def __call__(self, observation):
        tokens = Encoder(self.space, self.depth)(observation)
        head = MLP(self.layers, self.units, self.outputs, self.output_scale, dtype=jnp.float32)
        return head(tokens)


class PictureDecoder(nn.Module):
    """The way back, from `deter [..., D]` and `stoch [..., S]` to logits `[..., H·W·C]`.

    Both parts of the latent make a coarse picture and the two are added. Every block of `deter`
    makes channels of its own: dense layers from all of it would outweigh the whole model. Then
    come the encoder's stages in reverse (Hafner et al. 2023, appendix).
    """

    shape: tuple[int, ...]  # [H, W] or [H, W, C]
    depth: int
    units: int
    blocks: int
    conv: str
    act: str = "norm_silu"

    @nn.compact
    def __call__(self, deter, stoch):
        batch = deter.shape[:-1]
        deter, stoch = (x.reshape(math.prod(batch), -1) for x in (deter, stoch))
        rows, columns = coarse(self.shape)
        channels = STAGES[-1] * self.depth
        size = rows * columns * channels

        blocks = deter.reshape(len(deter), self.blocks, -1).transpose(1, 0, 2)
        x = BlockDense(size)(blocks).reshape(
            self.blocks, -1, rows, columns, channels // self.blocks
        )
        x = x.transpose(1, 2, 3, 0, 4).reshape(-1, rows, columns, channels)
        x += MLP(1, 2 * self.units, size, act=self.act)(stoch).reshape(x.shape)
        x = NormAct(self.act)(x)

        for stage in reversed(STAGES[:-1]):
            x = NormAct(self.act)(DoublingConv(stage * self.depth, self.conv)(x))
        x = DoublingConv(math.prod(self.shape[2:]), self.conv)(x)
        height, width = self.shape[:2]
        return x[:, :height, :width].reshape(*batch, -1).astype(jnp.float32)


class DoublingConv(nn.Module):
    """A convolution to twice the resolution, `[B, H, W, C] -> [B, 2H, 2W, features]`.

    `pool` repeats every pixel 2×2 and convolves 5×5; `strided` is a transposed 4×4 convolution.
    Either is computed before the resolution is doubled, as one convolution to four features for
    each: 2.8 and 4 times less arithmetic than on repeated pixels or between zeros.
    """

    features: int
    conv: str

    @nn.compact
    def __call__(self, x):
        dtype = compute_dtype()
        inputs = x.shape[-1]
        shape = (5, 5, inputs, self.features)
        if self.conv == "strided":  # stored as it is computed: 2×2 taps for each of 2×2 pixels
            shape = (2, 2, inputs, 4 * self.features)
        kernel = self.param("kernel", fan_in_flat, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(dtype)
        if self.conv == "pool":
            kernel = _before_repeating(kernel)
        x = ops.convolve(x.astype(dtype), kernel.astype(dtype), 1, ((1, 1), (1, 1)))
        x += jnp.tile(bias, 4)  # here, for its gradient is a slow sum over the larger picture
        batch, rows, columns, _ = x.shape
        x = x.reshape(batch, rows, columns, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, 2 * rows, 2 * columns, self.features)
        # Windows of 2×2 lie between the pixels, and half of the outer ones outside the picture.
        return x if self.conv == "pool" else x[:, 1:-1, 1:-1]


class SpreadingConv(nn.Module):
    """A transposed convolution with stride 2, `[B, H, W, C] -> [B, 2H − 2 + size, …, features]`.

    y[2i + j] = Σ_i x[i] w[j] for every tap j: each place is spread over `size`² pixels. As in
    `DoublingConv` it is computed before the resolution is doubled, as one convolution to four
    features for each; and from a single place as what it is there, a dense layer.
    """

    features: int
    size: int

    @nn.compact
    def __call__(self, x):
        dtype = compute_dtype()
        batch, rows, columns, inputs = x.shape
        shape = (self.size, self.size, inputs, self.features)
        kernel = self.param("kernel", fan_in_flat, shape).astype(dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(dtype)
        if rows == columns == 1:
            return jnp.einsum("bi,hwif->bhwf", x[:, 0, 0].astype(dtype), kernel) + bias
        taps = -(-self.size // 2)  # of each of the 2 × 2 pixels on the places around them
        kernel = jnp.pad(kernel, 2 * [(0, 2 * taps - self.size)] + 2 * [(0, 0)])
        kernel = kernel.reshape(taps, 2, taps, 2, inputs, self.features)[::-1, :, ::-1]
        kernel = kernel.transpose(0, 2, 4, 1, 3, 5).reshape(taps, taps, inputs, -1)
        x = ops.convolve(x.astype(dtype), kernel, 1, 2 * ((taps - 1, taps - 1),))
        x += jnp.tile(bias, 4)
        rows, columns = rows + taps - 1, columns + taps - 1
        x = x.reshape(batch, rows, columns, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, 2 * rows, 2 * columns, self.features)
        odd = self.size % 2  # then the last row and column have no tap
        return x[:, : 2 * rows - odd, : 2 * columns - odd]


def _before_repeating(kernel):
    """The 3×3 kernel that does on pixels what `kernel [5, 5, I, O]` does on 2×2 copies of them.

    Returns:
      `[3, 3, I, 4·O]`, output features for each of the four copies.
    """
    taps = np.zeros((2, 5, 3), np.float32)
    for copy in range(2):
        for tap in range(5):
            taps[copy, tap, (copy + tap) // 2] = 1.0
    kernel = jnp.einsum("pia,qjb,ijcf->abcpqf", taps, taps, kernel)
    return kernel.reshape(*kernel.shape[:3], -1)


def _largest_of_four(x):
    """Max-pooling `[B, 2H, 2W, C] -> [B, H, W, C]`."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
