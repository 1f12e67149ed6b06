"""Running statistics that travel with an agent's state."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class RunningMoments:
    """Mean and variance of all vectors `[N]` seen so far (Chan et al. 1983)."""

    count: jax.Array
    mean: jax.Array
    sum_squares: jax.Array  # of the distances from the mean

    @staticmethod
    def init(shape) -> RunningMoments:
        return RunningMoments(jnp.zeros(()), jnp.zeros(shape), jnp.zeros(shape))

    @staticmethod
    def of(rows, filled) -> RunningMoments:
        """Those of `rows [capacity, N]` that are `filled [capacity]`, and no others."""
        count = filled.sum().astype(jnp.float32)
        # From one of them on: sums of large numbers would lose how little these vary.
        origin = rows[jnp.argmax(filled)]
        mean = origin + jnp.sum(jnp.where(filled[:, None], rows - origin, 0.0), axis=0) / count
        squares = jnp.where(filled[:, None], jnp.square(rows - mean), 0.0)
        return RunningMoments(count, mean, squares.sum(axis=0))

    def update(self, batch) -> RunningMoments:
        """Takes in `batch [..., N]`."""
        batch = batch.reshape(-1, *self.mean.shape).astype(jnp.float32)
        size = batch.shape[0]
        count = self.count + size
        mean = batch.mean(axis=0)
        delta = mean - self.mean
        return RunningMoments(
            count,
            self.mean + delta * size / count,
            self.sum_squares
            + jnp.sum(jnp.square(batch - mean), axis=0)
            + jnp.square(delta) * self.count * size / count,
        )

    @property
    def scale(self):
        """The standard deviation `[N]`; 1 where nothing has varied yet, but by rounding."""
        variance = self.sum_squares / jnp.maximum(self.count, 1.0)
        rounding = 1e-6 * jnp.maximum(jnp.abs(self.mean), 1.0)
        return jnp.where(variance > jnp.square(rounding), jnp.sqrt(variance), 1.0)

    def normalise(self, x):
        """`x [..., N]` with mean 0 and variance 1; only centred while it has not varied."""
        return (x - self.mean) / self.scale

    def denormalise(self, x):
        """What `normalise` made `x [..., N]` of."""
        return self.mean + x * self.scale


@struct.dataclass
class ReturnRange:
    """The running 5th and 95th percentile of returns (Hafner et al. 2023, eq. 7)."""

    low: jax.Array
    high: jax.Array

    @staticmethod
    def init() -> ReturnRange:
        return ReturnRange(jnp.zeros(()), jnp.zeros(()))

    def update(self, returns, rate) -> ReturnRange:
        """Moves by `rate` towards the percentiles of `returns`, any shape."""
        low, high = jnp.percentile(returns, jnp.array([5.0, 95.0]))
        return ReturnRange(
            self.low + rate * (low - self.low), self.high + rate * (high - self.high)
        )

    @property
    def scale(self):
        """What advantages are divided by: at least 1, so that small returns are not blown up."""
        return jnp.maximum(1.0, self.high - self.low)
