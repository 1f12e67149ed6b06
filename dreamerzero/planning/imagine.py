"""Rolling a policy out inside a world."""

from __future__ import annotations

import jax


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
    latents = jax.tree.map(
        lambda first, rest: jax.numpy.concatenate([first[None], rest]), start, latents
    )
    return latents, actions, predictions
