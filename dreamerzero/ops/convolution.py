"""Convolution, with a gradient that a CPU is fast at."""

from __future__ import annotations

from functools import partial

import jax
from jax import lax

ORDER = ("NHWC", "HWIO", "NHWC")


def convolve(x, kernel, stride: int, padding):
    """The convolution of `x [B, H, W, C]` with `kernel [h, w, C, F]`: `[B, H', W', F]`.

    On a CPU its gradient is our own. JAX's has its axes in other orders; XLA brings them into the
    one that its library knows, but not inside of loops, and all training is a loop: there it
    computes element by element, 2 to 13 times slower. Ours has no forward mode (`jax.jvp`). On
    other devices nothing is different.

    Args:
      stride: of rows and columns.
      padding: ((before, after), (before, after)) for rows and columns.
    """
    conv = _with_gradient if jax.default_backend() == "cpu" else _convolve
    return conv(x, kernel, stride, padding)


def _convolve(x, kernel, stride, padding, **dilation):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=ORDER, **dilation
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _with_gradient(x, kernel, stride, padding):
    return _convolve(x, kernel, stride, padding)


def _forwards(x, kernel, stride, padding):
    return _convolve(x, kernel, stride, padding), (x, kernel)


def _backwards(stride, padding, inputs, dy):
    """∂x gathers from the outputs that saw a pixel, ∂kernel from all places where a tap was used.

    Both are convolutions with zeros between the elements of `dy` that a stride has skipped.
    """
    x, kernel = inputs
    x_padding, kernel_padding = [], []
    for side, taps, out, (before, _) in zip(x.shape[1:3], kernel.shape, dy.shape[1:3], padding):
        reach = (out - 1) * stride + 1  # of `dy` and its zeros
        x_padding.append((taps - 1 - before, side + before - reach))
        kernel_padding.append((before, taps - 1 - before + reach - side))
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    dx = _convolve(dy, turned, 1, x_padding, lhs_dilation=(stride, stride))
    # The sum is over the batch, so it is in the place of the channels here.
    dkernel = _convolve(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        1,
        kernel_padding,
        rhs_dilation=(stride, stride),
    )
    return dx, dkernel.transpose(1, 2, 0, 3)


_with_gradient.defvjp(_forwards, _backwards)
