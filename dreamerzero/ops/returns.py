"""Returns over time: unbatched `[T]` functions; `vmap` them."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def lambda_returns(r_t, discount_t, v_t, lambda_t):
    """TD(λ) returns (Sutton & Barto 2018, eq. 12.18).

    G_t = r_t + γ_t · [(1 − λ_t) v_t + λ_t G_{t+1}],  G_T = v_T

    Args:
      r_t: rewards, `[T]`.
      discount_t: γ times the probability of going on, `[T]`.
      v_t: value of the state each step leads to, `[T]`.
      lambda_t: mixing in [0, 1], a scalar or `[T]`; 0 stops the return at that step.
    Returns:
      `[T]` returns, with gradients through every argument.
    """
    chex.assert_rank([r_t, discount_t, v_t], 1)
    chex.assert_equal_shape([r_t, discount_t, v_t])
    lambda_t = jnp.broadcast_to(lambda_t, r_t.shape)

    def backup(g, inputs):
        r, discount, v, lambda_ = inputs
        g = r + discount * ((1 - lambda_) * v + lambda_ * g)
        return g, g

    return jax.lax.scan(backup, v_t[-1], (r_t, discount_t, v_t, lambda_t), reverse=True)[1]
