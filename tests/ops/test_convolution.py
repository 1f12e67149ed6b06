"""Our gradient of a convolution is the one that JAX would have taken."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamerzero import ops


def plain(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@partial(jax.jit, static_argnums=(0, 4, 5))  # one program, where single operations are a dozen
def both_ways(convolve, x, kernel, slope, *window):
    y, pull_back = jax.vjp(lambda x, kernel: convolve(x, kernel, *window), x, kernel)
    return y, *pull_back(slope[:, : y.shape[1], : y.shape[2]])


# The same examples each time: for a kernel wider than what it slides over, XLA itself can abort.
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    sides=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    taps=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    seed=st.integers(0, 2**31 - 1),
)
def test_gradients_are_those_of_jax(sides, taps, stride, pads, seed):
    random = np.random.default_rng(seed)
    x, kernel, slope = (
        random.normal(size=shape).astype(np.float32)
        for shape in ((2, *sides, 3), (*taps, 3, 5), (2, 16, 16, 5))
    )
    window = stride, (pads[:2], pads[2:])
    ours = both_ways(ops.convolve, x, kernel, slope, *window)
    theirs = both_ways(plain, x, kernel, slope, *window)
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mapped", [(0, None), (None, 0), (0, 0)])
def test_it_can_be_mapped(mapped):
    random = np.random.default_rng(0)
    x, kernel = (
        random.normal(size=(3, *shape) if axis == 0 else shape).astype(np.float32)
        for axis, shape in zip(mapped, [(2, 6, 6, 3), (4, 4, 3, 5)])
    )

    def gradients(convolve):
        def loss(x, kernel):
            return (convolve(x, kernel, 2, ((1, 1), (1, 1))) ** 2).sum()

        return jax.vmap(jax.grad(loss, (0, 1)), mapped)(x, kernel)

    for a, b in zip(gradients(ops.convolve), gradients(plain)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
