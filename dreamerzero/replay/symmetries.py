"""Frames of games seen from another side, from which the game is the same: more to learn from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero.replay.sequence import Frame
from dreamerzero.types import EnvSpec


@struct.dataclass
class Sides:
    """One of a game's `EnvSpec.symmetries` for each of B sequences."""

    cells: jax.Array  # [B, H·W]
    order: jax.Array  # [B, A]

    def frames(self, frames: Frame) -> Frame:
        """Frames `[T, B, ...]` seen from there, whose context is numbers for every action."""
        return frames.replace(
            observation=self.observations(frames.observation),
            action=self.actions(frames.action),
            context=jax.tree.map(self.weights, frames.context),
            legal=self.weights(frames.legal),
        )

    def observations(self, x):
        """Boards `[T, B, H, W, ...]` seen from there."""
        flat = x.reshape(*x.shape[:2], self.cells.shape[-1], -1)
        return jnp.take_along_axis(flat, self.cells[None, :, :, None], axis=2).reshape(x.shape)

    def actions(self, action):
        """What actions `[T, B]` are called there."""
        return jnp.argsort(self.order)[jnp.arange(len(self.order)), action]

    def weights(self, x):
        """Numbers for every action, `[T, B, A]`, in their order there."""
        return jnp.take_along_axis(x, self.order[None], axis=2)


def draw(spec: EnvSpec, key, batch_size: int) -> Sides:
    """Any side with the same probability for each of `batch_size` sequences."""
    cells, order = (jnp.array(tables) for tables in zip(*spec.symmetries))
    side = jax.random.randint(key, (batch_size,), 0, len(cells))
    return Sides(cells[side], order[side])
