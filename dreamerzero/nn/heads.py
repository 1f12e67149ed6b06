"""What a network's numbers say about a scalar: its mean, and the loss against what came."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero import ops
from dreamerzero.types import static


@struct.dataclass
class TwoHot:
    """`num` classes over bins up to ± symexp(`limit`) (Hafner et al. 2023, eq. 10)."""

    num: int = static()
    limit: float = static()

    @property
    def bins(self):
        return ops.symexp_bins(self.num, self.limit)

    def mean(self, outputs):
        """The scalar `[...]` of `outputs [..., num]`."""
        return ops.two_hot_mean(outputs, self.bins)

    def loss(self, outputs, target):
        """Cross-entropy `[...]` against `target [...]`, which gets no gradient."""
        return ops.two_hot_loss(outputs, target, self.bins)


@struct.dataclass
class Support:
    """Classes over the integers from −`size` to `size` of a scalar's h (`ops.signed_hyperbolic`;
    Schrittwieser et al. 2020, appendix F)."""

    size: int = static()

    @property
    def num(self) -> int:
        return 2 * self.size + 1

    @property
    def bins(self):
        return jnp.arange(-self.size, self.size + 1.0)

    def mean(self, outputs):
        """The scalar `[...]` of `outputs [..., num]`."""
        return ops.signed_parabolic(ops.two_hot_mean(outputs, self.bins))

    def loss(self, outputs, target):
        """Cross-entropy `[...]` against `target [...]`, which gets no gradient."""
        return ops.two_hot_loss(outputs, ops.signed_hyperbolic(target), self.bins)


@struct.dataclass
class Normal:
    """A normal of unit variance: one output, its mean."""

    def mean(self, outputs):
        return outputs[..., 0]

    def loss(self, outputs, target):
        """Half the squared error `[...]`: −log p without its constant."""
        return 0.5 * jnp.square(outputs[..., 0] - jax.lax.stop_gradient(target))


def scalar(bins: int, limit: float) -> TwoHot | Normal:
    """The head with so many outputs: two-hot classes, or a normal if it is only one."""
    return TwoHot(bins, limit) if bins > 1 else Normal()


def bernoulli_loss(logit, target):
    """−log p of a `target [...]` in [0, 1] under the sigmoid of `logit [...]`."""
    return -(target * jax.nn.log_sigmoid(logit) + (1.0 - target) * jax.nn.log_sigmoid(-logit))
