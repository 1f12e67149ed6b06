"""AlphaZero: search in the true rules of a game, with a policy and a value that are learnt.

Silver et al. 2018, "A general reinforcement learning algorithm that masters chess, shogi, and Go
through self-play"; with the search of Danihelka et al. 2022.

  world    the game itself: s_{k+1} = rules(s_k, a_k)
  loss     l(π, p) + l(z, v), in the states that were played alone

All else is `muzero.py`'s, of which it is the control: whatever MuZero loses against it, it loses by
having to learn the rules. Before it in the lineage: nothing that learns; after it: MuZero.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero import envs
from dreamerzero.agents.muzero import MuZero
from dreamerzero.agents.sequences import see
from dreamerzero.types import Prediction, TimeStep, UsageError, static


@struct.dataclass
class AlphaZero(MuZero):
    """AlphaZero for games whose rules are given; with MuZero's search and sizes."""

    unroll: int = static(0)

    PRESETS: ClassVar[dict[str, dict]] = MuZero.PRESETS | {
        "2048": MuZero.PRESETS["2048"] | {"reconstruction": 0.0}
    }

    foresees: ClassVar[bool] = False  # the rules do, see agents.make

    def check(self):
        super().check()
        if not self.spec.masked:
            raise UsageError(
                f"alphazero searches in the rules of a game, and {self.spec.name} gives none. "
                "Try muzero, which learns them."
            )
        for field in ("unroll", "samples", "reanalysed", "consistency", "reconstruction", "prefix"):
            if getattr(self, field):
                raise UsageError(f"alphazero has no {field}: it learns no model.")

    def root(self, params, world, timestep: TimeStep):
        return timestep.observation, timestep.state

    def model(self, params, world):
        """The rules, and what the network says of observations in them."""
        env = envs.make(self.spec.name)

        def evaluate(position):
            observation, state = position
            latent = self.world.represent(world, see(self.spec, params, observation))
            logits, value = self.world.evaluate(world, latent)
            legal = jax.vmap(env.environment.legal_actions)(state)
            return jnp.where(legal, logits, -1e9), value

        def step(key, action, position):
            move = partial(env.environment.step_env, params=env.params)
            keys = jax.random.split(key, len(action))
            observation, state, reward, terminated, _ = jax.vmap(move)(keys, position[1], action)
            going_on = self.spec.sign * self.discount * (1.0 - terminated)
            return Prediction(reward, going_on), (observation, state)

        return evaluate, step
