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


def gae(r_t, discount_t, v_tm1, v_t, lambda_t):
    """Generalised advantage estimates (Schulman et al. 2016, eq. 16).

    δ_t = r_t + γ_t v_t − v_{t−1},  A_t = δ_t + γ_t λ_t A_{t+1},  A_{T+1} = 0

    They are λ-returns without the value they began at. The two values of one state, `v_t[k]` and
    `v_tm1[k + 1]`, are the same but where λ_t is 0: there another episode begins.

    Args:
      r_t: rewards, `[T]`.
      discount_t: γ times the probability of going on, `[T]`.
      v_tm1: value of the state each step begins at, `[T]`.
      v_t: value of the state each step leads to, `[T]`.
      lambda_t: mixing in [0, 1], a scalar or `[T]`; 0 stops the sum at that step.
    Returns:
      `[T]` advantages.
    """
    chex.assert_equal_shape([v_tm1, v_t])
    return lambda_returns(r_t, discount_t, v_t, lambda_t) - v_tm1


def n_step_returns(r_t, discount_t, v_t, lambda_t, n: int, horizon=None):
    """n-step returns (Sutton & Barto 2018, eq. 7.1) of every step that has n of them ahead.

    G¹_t = r_t + γ_t v_t,  Gⁿ_t = r_t + γ_t · [(1 − λ_t) v_t + λ_t Gⁿ⁻¹_{t+1}]

    Args:
      r_t: rewards, `[T]`.
      discount_t: γ times the probability of going on, `[T]`.
      v_t: value of the state each step leads to, `[T]`.
      lambda_t: mixing in [0, 1], a scalar or `[T]`; 0 stops the return at that step.
      n: steps, static, from 1 to T.
      horizon: steps of this return, a scalar from 1 to n; n if omitted.
    Returns:
      `[T − n + 1]` returns.
    """
    chex.assert_rank([r_t, discount_t, v_t], 1)
    chex.assert_equal_shape([r_t, discount_t, v_t])
    if not 1 <= n <= len(r_t):
        raise ValueError(f"n-step returns of {len(r_t)} steps need n from 1 to that; got {n}.")
    lambda_t = jnp.broadcast_to(lambda_t, r_t.shape)
    horizon = n if horizon is None else horizon

    def longer(steps, g):
        following = jnp.roll(g, -1)  # wrong in the last places, which are not returned
        longer = r_t + discount_t * ((1 - lambda_t) * v_t + lambda_t * following)
        return jnp.where(steps < horizon, longer, g)

    return jax.lax.fori_loop(1, n, longer, r_t + discount_t * v_t)[: len(r_t) - n + 1]
