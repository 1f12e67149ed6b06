"""The stochastic part of a latent: one-hot classes, or numbers with a Gaussian spread.

Both give a distribution for a network's outputs, draw from it so that gradients pass, and measure
the KL between two of them, which is all that the recurrent model wants to know.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero import ops
from dreamerzero.types import static


@struct.dataclass
class Categorical:
    """`variables` one-hot vectors of `classes` (Hafner et al. 2021, 2023).

    A distribution is its log-probabilities `[..., V, C]`, a fraction `unimix` of them uniform.
    """

    variables: int = static()
    classes: int = static()
    unimix: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.variables, self.classes)

    @property
    def num_outputs(self) -> int:
        return math.prod(self.shape)

    def distribution(self, outputs):
        return ops.unimix(outputs.reshape(*outputs.shape[:-1], *self.shape), self.unimix)

    def noise(self, key, batch_shape):
        """What `sample` needs to draw; without a key, what makes it give the likeliest classes."""
        shape = (*batch_shape, *self.shape)
        return jnp.zeros(shape) if key is None else jax.random.gumbel(key, shape)

    def sample(self, distribution, noise):
        return ops.straight_through(distribution, noise)

    def kl(self, p, q):
        return ops.categorical_kl(p, q)

    def entropy(self, distribution):
        return ops.categorical_entropy(distribution)

    def pack(self, sample):
        """Which class each variable is in."""
        return jnp.argmax(sample, axis=-1).astype(jnp.uint8 if self.classes <= 256 else jnp.int32)

    def unpack(self, packed):
        return jax.nn.one_hot(packed, self.classes)


@struct.dataclass
class Gaussian:
    """`size` independent normals with a standard deviation above 0.1 (PlaNet; Dreamer v1).

    A distribution is its mean and standard deviation, `[..., size]` each.
    """

    size: int = static()

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    @property
    def num_outputs(self) -> int:
        return 2 * self.size

    def distribution(self, outputs):
        mean, std = jnp.split(outputs, 2, axis=-1)
        return mean, jax.nn.softplus(std) + 0.1

    def noise(self, key, batch_shape):
        """What `sample` needs to draw; without a key, what makes it give the mean."""
        shape = (*batch_shape, *self.shape)
        return jnp.zeros(shape) if key is None else jax.random.normal(key, shape)

    def sample(self, distribution, noise):
        mean, std = distribution
        return mean + std * noise

    def kl(self, p, q):
        return ops.gaussian_kl(p, q)

    def entropy(self, distribution):
        return ops.gaussian_entropy(distribution[1])

    def pack(self, sample):
        return sample.astype(jnp.bfloat16)

    def unpack(self, packed):
        return packed.astype(jnp.float32)
