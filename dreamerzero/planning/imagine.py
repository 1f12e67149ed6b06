"""Rolling a policy out inside a world."""

from __future__ import annotations

import jax
import jax.numpy as jnp

OVER = 1e-3
"""How likely it is that a dream still goes on when nobody waits for the rest of it."""


def imagine(key, policy, step, latent, horizon: int):
    """Follows `policy` for `horizon` imagined steps.

    Args:
      policy: `(key, latent) -> action [B, ...]`.
      step: `(key, action, latent) -> (Prediction, latent)`, one step of a world.
      latent: where to start, leaves `[B, ...]`.
    Returns:
      Latents `[H + 1, B, ...]` with the start first, actions `[H, B, ...]`, and the predictions
      `[H, B]` of the steps they led to.
    """

    def body(latent, key):
        policy_key, step_key = jax.random.split(key)
        action = policy(policy_key, latent)
        prediction, successor = step(step_key, action, latent)
        return successor, (successor, action, prediction)

    start = latent
    _, (latents, actions, predictions) = jax.lax.scan(body, start, jax.random.split(key, horizon))
    latents = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, latents)
    return latents, actions, predictions


def imagined_return(key, policy, step, latent, shape, horizon):
    """What following `policy` for `horizon` imagined steps returns, and nothing else is kept of it:
    for many long dreams.

    R = Σ_t (Π_{k<t} γ_k) r_t,  γ_k the predicted discounts

    Args:
      policy, step, latent: as in `imagine`, with a batch of any `shape` for `[B]`.
      horizon: a number, or traced. Dreams end sooner once every Π γ_k is below `OVER`.
    Returns:
      Returns `shape`, and the number of steps dreamt.
    """

    def goes_on(carry):
        time, _, _, discount = carry
        return (time < horizon) & (discount > OVER).any()

    def body(carry):
        time, latent, returns, discount = carry
        policy_key, step_key = jax.random.split(jax.random.fold_in(key, time))
        prediction, latent = step(step_key, policy(policy_key, latent), latent)
        returns += discount * prediction.reward
        return time + 1, latent, returns, discount * prediction.discount

    carry = jnp.int32(0), latent, jnp.zeros(shape), jnp.ones(shape)
    time, _, returns, _ = jax.lax.while_loop(goes_on, body, carry)
    return returns, time
