import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero.nn.normalisers import ReturnRange, RunningMoments


def test_follows_the_percentiles_and_never_magnifies():
    rng = np.random.default_rng(0)
    low = high = 0.0
    ours = ReturnRange.init()
    assert ours.scale == 1.0
    for _ in range(50):
        returns = rng.normal(3.0, 10.0, size=(15, 40))
        low += 0.05 * (np.percentile(returns, 5) - low)
        high += 0.05 * (np.percentile(returns, 95) - high)
        ours = ours.update(jnp.float32(returns), 0.05)
    np.testing.assert_allclose([ours.low, ours.high], [low, high], rtol=1e-4)
    np.testing.assert_allclose(ours.scale, high - low, rtol=1e-4)
    assert ReturnRange(jnp.float32(0.0), jnp.float32(0.1)).scale == 1.0


def test_moments_are_those_of_everything_seen():
    rng = np.random.default_rng(0)
    batches = [rng.normal(100.0, [0.01, 3.0], size=(n, 5, 2)) for n in (1, 7, 30)]
    batches = [np.concatenate([b, np.full((*b.shape[:-1], 1), 4.0)], -1) for b in batches]
    moments = RunningMoments.init((3,))
    for batch in batches:
        moments = moments.update(jnp.float32(batch))
    everything = np.concatenate([b.reshape(-1, 3) for b in batches])
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-5)
    normal = moments.normalise(jnp.float32(everything))
    np.testing.assert_allclose(normal[:, :2].std(0), 1.0, rtol=0.01)
    np.testing.assert_allclose(normal[:, 2], 0.0, atol=1e-5)  # a constant stays harmless
    np.testing.assert_allclose(moments.denormalise(normal), everything, rtol=1e-5)


@pytest.mark.parametrize("number", [2_375, 20_000, 123_457])
def test_what_never_varies_has_no_scale(number):
    constants = np.geomspace(1e-3, 1e6, 40, dtype=np.float32)
    rows = jnp.tile(constants, (number, 1))
    stored = RunningMoments.of(rows, jnp.arange(number) < number - 100)
    np.testing.assert_array_equal(stored.scale, 1.0)
    np.testing.assert_allclose(stored.normalise(rows[:1]), 0.0, atol=1e-5)
    seen = RunningMoments.init((40,))
    for batch in np.array_split(rows, 7):
        seen = seen.update(jnp.asarray(batch))
    np.testing.assert_array_equal(seen.scale, 1.0)


def test_moments_of_a_store_are_those_of_what_fills_it():
    rows = np.random.default_rng(0).normal(50.0, [0.1, 3.0], size=(40, 2))
    store = jnp.float32(np.concatenate([rows, np.full((24, 2), np.nan)]))
    moments = RunningMoments.of(store, jnp.arange(64) < 40)
    assert moments.count == 40
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.scale, rows.std(0), rtol=1e-3)
