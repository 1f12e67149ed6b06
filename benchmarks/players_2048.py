"""What does 2048 pay those who learn nothing?

Whoever moves at random, and whoever takes the first legal one of a fixed order of directions.

    python benchmarks/players_2048.py
"""

from __future__ import annotations

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
from common import arguments, report
from flax import struct

import dreamerzero as dz
from dreamerzero import envs
from dreamerzero.types import ActorOutput

EPISODES = 1_000
DIRECTIONS = ("left", "up", "right", "down")


@struct.dataclass
class Fixed:
    """Takes the legal direction of the least rank in `params [4]`; any of those that are equal."""

    def memory(self, batch_size):
        return ()

    def act(self, params, key, timestep, memory, *, explore):
        rank = params + 0.5 * jax.random.uniform(key, timestep.legal.shape)
        return ActorOutput(jnp.argmin(jnp.where(timestep.legal, rank, jnp.inf), -1), memory, ())


def main():
    arguments()
    env = envs.make("2048-pgx")
    orders = {"at random": np.zeros(4)}
    # However the board is held: eight orders are one, and left comes first in it, up before down.
    for order in permutations(range(4)):
        if order[0] == 0 and order.index(1) < order.index(3):
            orders[", ".join(DIRECTIONS[way] for way in order)] = np.argsort(order)
    rows = []
    for name, ranks in orders.items():
        ranks = jnp.asarray(ranks, jnp.float32)
        returns = np.asarray(dz.evaluate(Fixed(), ranks, env, jax.random.key(0), EPISODES))
        error = float(returns.std() / np.sqrt(EPISODES))
        rows.append({"player": name, "points": float(returns.mean()), "standard error": error})
    report("players_2048", rows)


if __name__ == "__main__":
    main()
