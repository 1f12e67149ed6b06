import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero.nn.observations import augmented, is_picture, network_input
from dreamerzero.types import Box, Discrete

PICTURE = Box((42, 63, 3), "uint8", 0.0, 255.0)


def pictures(number, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(1, 256, (number, *PICTURE.shape)), jnp.uint8)


def test_what_is_a_picture_has_32_pixels_on_its_smaller_side():
    assert all(map(is_picture, [(64, 64, 3), (84, 84), (96, 96, 1), (32, 40, 3)]))
    assert not any(map(is_picture, [(), (64,), (10, 10, 4), (10, 5), (30, 30, 3), (4, 84, 84)]))


@pytest.mark.parametrize(
    "space, seen, given",
    [
        (Discrete(3), [2, 0], [[0, 0, 1], [1, 0, 0]]),
        (Box((2,), "float32", -1e9, 1e9), [[0.0, 1.0 - np.e]], [[0.0, -1.0]]),
        (Box((1, 2, 2), "bool", 0.0, 1.0), [[[True, False], [False, True]]], [[[1, 0], [0, 1]]]),
        (Box((1, 2), "float32", -1.0, 1.0), [[0.0, 1.0]], [[[0.5], [1.0]]]),
        (PICTURE, np.full(PICTURE.shape, 51), np.full(PICTURE.shape, -0.3)),
    ],
)
def test_networks_take_what_is_there_as_1_and_pictures_around_0(space, seen, given):
    seen = jnp.asarray(seen, space.dtype)
    np.testing.assert_allclose(network_input(seen, space), given, atol=1e-6)


def test_an_augmented_picture_is_a_shifted_one_times_a_factor():
    """By 4 of 84 pixels: here up to 2 of 42 and 3 of 63, with the border repeated."""
    image = pictures(1)[0]
    padded = np.pad(np.asarray(image, np.float64), ((2, 2), (3, 3), (0, 0)), mode="edge")
    shifts, factors = set(), []
    change = jax.jit(lambda key: augmented(key, image, PICTURE))
    for key in jax.random.split(jax.random.key(0), 60):
        changed = np.asarray(change(key))
        assert (changed.shape, changed.dtype) == (image.shape, np.float32)
        matches = []
        for row in range(5):
            for column in range(7):
                ratio = changed / padded[row : row + 42, column : column + 63]
                if np.ptp(ratio) < 1e-4:
                    matches.append((row, column, ratio.mean()))
        ((row, column, factor),) = matches
        shifts.add((row, column))
        factors.append(factor)
    assert {row for row, _ in shifts} == {*range(5)}
    assert {column for _, column in shifts} == {*range(7)}
    assert np.abs(np.array(factors) - 1.0).max() <= 0.1 + 1e-6
    assert 0.03 < np.std(factors) < 0.06


def test_augmentation_depends_on_its_key_alone_and_vmapped_is_single():
    images, keys = pictures(4), jax.random.split(jax.random.key(1), 4)
    together = jax.vmap(lambda key, image: augmented(key, image, PICTURE))(keys, images)
    for key, image, changed in zip(keys, images, together, strict=True):
        np.testing.assert_array_equal(augmented(key, image, PICTURE), changed)
    other = augmented(jax.random.key(2), images[0], PICTURE)
    assert not np.allclose(other, together[0])


@pytest.mark.parametrize("shape", [(10, 5), (10, 10, 4)])
def test_small_grids_keep_their_places(shape):
    space = Box(shape, "bool", 0.0, 1.0)
    grid = jnp.asarray(np.random.default_rng(0).uniform(size=shape) < 0.3)
    for key in jax.random.split(jax.random.key(0), 10):
        changed = augmented(key, grid, space)
        np.testing.assert_allclose(changed, grid * changed.max())
