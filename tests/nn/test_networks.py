import jax
import jax.numpy as jnp
import numpy as np

from dreamerzero.nn.networks import BlockDense, ConvEncoder, NormAct, SplitDense


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
