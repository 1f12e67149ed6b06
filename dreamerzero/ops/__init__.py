"""Mathematics without parameters."""

from dreamerzero.ops.convolution import convolve
from dreamerzero.ops.latents import (
    balanced_kl,
    categorical_entropy,
    categorical_kl,
    gaussian_entropy,
    gaussian_kl,
    straight_through,
    unimix,
)
from dreamerzero.ops.returns import gae, lambda_returns, n_step_returns
from dreamerzero.ops.scalars import (
    categorical_projection,
    signed_hyperbolic,
    signed_parabolic,
    symexp,
    symexp_bins,
    symlog,
    two_hot,
    two_hot_loss,
    two_hot_mean,
)

__all__ = [
    "balanced_kl",
    "categorical_entropy",
    "categorical_kl",
    "categorical_projection",
    "convolve",
    "gae",
    "gaussian_entropy",
    "gaussian_kl",
    "lambda_returns",
    "n_step_returns",
    "signed_hyperbolic",
    "signed_parabolic",
    "straight_through",
    "symexp",
    "symexp_bins",
    "symlog",
    "two_hot",
    "two_hot_loss",
    "two_hot_mean",
    "unimix",
]
