"""When episodes terminate, for worlds that learn only how states change.

Each function is `(observation [B, ...], action [B, ...], next_observation [B, ...]) -> bool [B]`,
and says what the environment itself says of that step. Time limits are no terminations. What is not
a number is out of every range: a dream that has burst is over, where falling ends an episode.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp


def never(observation, action, next_observation):
    return jnp.zeros(next_observation.shape[:1], bool)


def hopper(observation, action, next_observation):
    """Of gymnasium's Hopper-v5, which shows z, the torso's angle, three joints and six velocities.

    Velocities are shown within ±10, so that of the last condition only the angles are left.
    """
    z, angle, state = next_observation[:, 0], next_observation[:, 1], next_observation[:, 1:]
    alive = (z > 0.7) & (jnp.abs(angle) < 0.2) & (jnp.abs(state) < 100.0).all(axis=1)
    return ~alive


def walker(observation, action, next_observation):
    """Of gymnasium's Walker2d-v5, which shows z, the torso's angle, six joints and velocities."""
    z, angle = next_observation[:, 0], next_observation[:, 1]
    return ~((z > 0.8) & (z < 2.0) & (jnp.abs(angle) < 1.0))


def ant(observation, action, next_observation):
    """Of gymnasium's Ant-v5, which shows z first."""
    z = next_observation[:, 0]
    return ~((z >= 0.2) & (z <= 1.0) & jnp.isfinite(next_observation).all(axis=1))


def humanoid(observation, action, next_observation):
    """Of gymnasium's Humanoid-v5, which shows z first."""
    z = next_observation[:, 0]
    return ~((z > 1.0) & (z < 2.0))


def inverted_pendulum(observation, action, next_observation):
    """Of gymnasium's InvertedPendulum-v5: cart, angle (rad) and their velocities."""
    upright = jnp.abs(next_observation[:, 1]) <= 0.2
    return ~(upright & jnp.isfinite(next_observation).all(axis=1))


def cart_pole(observation, action, next_observation):
    """Of CartPole-v1: 2.4 m to either side, and 12°."""
    x, theta = next_observation[:, 0], next_observation[:, 2]
    return ~((jnp.abs(x) <= 2.4) & (jnp.abs(theta) <= 12 * 2 * jnp.pi / 360))


def mountain_car(observation, action, next_observation):
    """Of MountainCarContinuous-v0: the top of the hill, and not rolling back from it."""
    position, velocity = next_observation[:, 0], next_observation[:, 1]
    return (position >= 0.45) & (velocity >= 0.0)


TERMINATIONS: dict[str, Callable] = {
    "Ant-v5": ant,
    "CartPole-v1": cart_pole,
    "CartPoleSwingup-v0": never,
    "HalfCheetah-v5": never,
    "Hopper-v5": hopper,
    "Humanoid-v5": humanoid,
    "InvertedPendulum-v5": inverted_pendulum,
    "MountainCarContinuous-v0": mountain_car,
    "Pendulum-v1": never,
    "Pusher-v5": never,
    "Reacher-v5": never,
    "Swimmer-v5": never,
    "Walker2d-v5": walker,
}
"""Where it is known, by the environment's id."""


def termination(name: str) -> Callable | None:
    """The function of that environment, gymnax's or gymnasium's; None if it has to be learnt."""
    return TERMINATIONS.get(name.removeprefix("gymnasium/"))
