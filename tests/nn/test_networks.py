from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero.nn.networks import (
    CONVS,
    BlockDense,
    ConvEncoder,
    DoublingConv,
    LineEncoder,
    NormAct,
    PictureDecoder,
    PictureEncoder,
    SplitDense,
    SpreadingConv,
    _largest_of_four,
)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_block_dense_is_a_loop_over_blocks_that_all_see_what_is_shared():
    blocks, batch, own, shared_size, out = 4, 5, 3, 7, 2
    x, shared = normal(0, blocks, batch, own), normal(1, batch, shared_size)
    layer = BlockDense(blocks * out)
    params = layer.init(jax.random.key(2), x, shared)
    params = jax.tree.map(lambda p: p + 0.1, params)  # a bias that is not zero
    kernel, bias = params["params"]["kernel"], params["params"]["bias"]
    expected = [
        np.concatenate([x[g], shared], axis=-1) @ kernel[g] + bias[g] for g in range(blocks)
    ]
    np.testing.assert_allclose(layer.apply(params, x, shared), np.stack(expected), rtol=1e-5)


def test_block_dense_starts_with_the_variance_of_one_block():
    x, shared = normal(0, 8, 512, 64), normal(1, 512, 192)
    y, _ = BlockDense(512).init_with_output(jax.random.key(2), x, shared)
    np.testing.assert_allclose(y.std(), 1.0, rtol=0.05)


def test_split_dense_is_a_dense_layer_of_the_concatenation():
    a, b = normal(0, 5, 3), normal(1, 5, 4)
    layer = SplitDense((3, 4), 6)
    params = jax.tree.map(lambda p: p + 0.1, layer.init(jax.random.key(2), 0, a))
    whole = np.concatenate([a, b], -1) @ params["params"]["kernel"] + params["params"]["bias"]
    np.testing.assert_allclose(
        layer.apply(params, 0, a) + layer.apply(params, 1, b), whole, rtol=1e-5
    )


def test_norm_act_over_blocks_is_norm_act_over_the_whole_vector():
    x = normal(0, 5, 12)
    blocks = x.reshape(5, 3, 4).transpose(1, 0, 2)
    whole = NormAct().init_with_output(jax.random.key(0), x)[0]
    parts, params = NormAct(axes=(0, 2)).init_with_output(jax.random.key(0), blocks)
    np.testing.assert_allclose(parts.transpose(1, 0, 2).reshape(5, 12), whole, rtol=1e-5)
    assert sum(p.size for p in jax.tree.leaves(params)) == 12
    rms = x / np.sqrt(np.mean(np.square(x), -1, keepdims=True) + 1e-4)
    np.testing.assert_allclose(whole, rms / (1 + np.exp(-rms)), rtol=1e-4, atol=1e-6)


def test_conv_encoder_says_how_many_tokens_it_makes():
    for shape in ((10, 5), (10, 10), (9, 7)):
        y, _ = ConvEncoder(4).init_with_output(jax.random.key(0), jnp.zeros((2, 3, *shape, 3)))
        assert y.shape == (2, 3, ConvEncoder.num_outputs(shape, 4))


def test_line_encoder_reads_every_row_and_every_column_by_itself():
    board = jax.random.normal(jax.random.key(0), (2, 3, 4, 5, 6))
    tokens, params = LineEncoder(8).init_with_output(jax.random.key(1), board)
    assert tokens.shape == (2, 3, (4 + 5) * 16)
    other = LineEncoder(8).apply(params, board.at[:, :, 2, 3].add(1.0))
    changed = np.any(np.not_equal(tokens, other).reshape(2, 3, 4 + 5, 16), axis=-1)
    np.testing.assert_array_equal(np.flatnonzero(changed.all((0, 1))), [2, 4 + 3])
    np.testing.assert_array_equal(np.flatnonzero(changed.any((0, 1))), [2, 4 + 3])


@pytest.mark.parametrize("conv", CONVS)
def test_pictures_become_tokens_and_pictures_again(conv):
    """64 × 64 through a map of 4 × 4; other sides are padded to multiples of 16 and cropped."""
    assert PictureEncoder.num_outputs((64, 64, 3), 2) == 4 * 4 * 8
    for shape in ((64, 64, 3), (84, 96, 1), (40, 33)):
        tokens = outputs(PictureEncoder(2, conv), (2, 3, *shape[:2], *(shape[2:] or (1,))))
        assert tokens.shape == (2, 3, PictureEncoder.num_outputs(shape, 2))
        decoder = PictureDecoder(shape, 2, units=8, blocks=4, conv=conv)
        assert outputs(decoder, (2, 3, 16), (2, 3, 6)).shape == (2, 3, np.prod(shape))


def outputs(module, *shapes):
    """What `module` makes of inputs `shapes`, without computing it."""
    inputs = [jnp.zeros(shape) for shape in shapes]
    return jax.eval_shape(module.init_with_output, jax.random.key(0), *inputs)[0]


def test_the_stages_are_two_three_four_and_four_times_the_depth():
    image, deter, stoch = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 16)), jnp.zeros((1, 6))

    def kernels(module, *inputs):
        params = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
        parts = (params[name] for name in sorted(params) if "Conv" in name)
        return [part["kernel"].shape for part in parts]

    for conv, size in (("pool", 5), ("strided", 4)):
        widths = [3, 10, 15, 20, 20]
        expected = [(size, size, *pair) for pair in pairwise(widths)]
        assert kernels(PictureEncoder(5, conv), image) == expected
        back = list(pairwise(reversed(widths)))
        if conv == "pool":
            expected = [(5, 5, inputs, outputs) for inputs, outputs in back]
        else:
            expected = [(2, 2, inputs, 4 * outputs) for inputs, outputs in back]
        decoder = PictureDecoder((64, 64, 3), 5, units=8, blocks=4, conv=conv)
        assert kernels(decoder, deter, stoch) == expected


def doubled(conv):
    x = normal(0, 2, 5, 6, 3)
    layer = DoublingConv(4, conv)
    params = jax.tree.map(lambda p: p + 0.1, layer.init(jax.random.key(1), x))
    return x, params["params"], layer.apply(params, x)


def test_pooled_pictures_are_doubled_by_repeating_pixels_and_convolving():
    x, params, y = doubled("pool")
    repeated = np.pad(np.repeat(np.repeat(x, 2, 1), 2, 2), ((0, 0), (2, 2), (2, 2), (0, 0)))
    expected = params["bias"] + sum(
        repeated[:, i : i + 10, j : j + 12] @ params["kernel"][i, j]
        for i in range(5)
        for j in range(5)
    )
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_strided_pictures_are_doubled_by_a_transposed_convolution():
    """Every pixel adds a 4×4 patch of output, at twice its place."""
    x, params, y = doubled("strided")
    kernel = np.reshape(params["kernel"], (2, 2, 3, 2, 2, 4))
    expected = np.zeros((2, 12, 14, 4))
    for i in range(4):
        for j in range(4):
            # Patches run from the last pair of rows and columns that sees a pixel to the first.
            part = kernel[1 - i // 2, 1 - j // 2, :, i % 2, j % 2]
            expected[:, i : i + 10 : 2, j : j + 12 : 2] += x @ part
    np.testing.assert_allclose(y, expected[:, 1:-1, 1:-1] + params["bias"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [5, 6])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3)])
def test_places_are_spread_by_a_transposed_convolution(size, shape):
    """Every place adds a patch of `size`² at twice its place, and bias is added once."""
    x = normal(0, 2, *shape, 3)
    layer = SpreadingConv(4, size)
    params = jax.tree.map(lambda p: p + 0.1, layer.init(jax.random.key(1), x))
    kernel, bias = params["params"]["kernel"], params["params"]["bias"]
    sides = [2 * (side - 1) + size for side in shape]
    expected = np.zeros((2, *sides, 4)) + np.asarray(bias)
    for row in range(shape[0]):
        for column in range(shape[1]):
            patch = np.einsum("bi,hwif->bhwf", x[:, row, column], kernel)
            expected[:, 2 * row : 2 * row + size, 2 * column : 2 * column + size] += patch
    np.testing.assert_allclose(layer.apply(params, x), expected, rtol=1e-4, atol=1e-4)


def test_pooling_keeps_the_largest_of_every_four_pixels():
    x = normal(0, 2, 6, 4, 3)
    np.testing.assert_array_equal(_largest_of_four(x), nn.max_pool(x, (2, 2), (2, 2)))
