"""Dreamer v1: the first actor and critic that learn by backpropagation through imagined futures.

Hafner et al. 2020, "Dream to Control: Learning Behaviors by Latent Imagination".

  world      Gaussian latents, a GRU, KL with 3 free nats on the mean                    (eq. 10)
  actor      − R^λ, its gradient running back through rewards, latents and actions      (eq. 7)
  critic     ½ (v − sg R^λ)²                                                           (eq. 8)

The machinery is `dreamer.py`'s; before it in the lineage PlaNet, after it v2. Different from the
paper: the policy is a normal around tanh μ, without tanh on its samples; discrete actions explore
by being sampled, without noise; the GRU has v2's norm; networks have ELU everywhere (small grids
have an encoder of our own), v3's numbers of layers and, for pictures, its stages; a reconstruction
costs the squared error, not half of it; vectors are measured and symlog as in v3.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero.agents.dreamer import Dreamer
from dreamerzero.agents.sequences import Memory
from dreamerzero.types import Discrete, static


@struct.dataclass
class DreamerV1(Dreamer):
    """DreamerV1 with the paper's coefficients; only `xs` has rates of its own, for short runs."""

    batch_size: int = static(50)
    batch_length: int = static(50)
    train_ratio: float = static(500.0)
    deter: int = static(200)
    hidden: int = static(200)
    latent: str = static("gaussian")
    stoch: int = static(30)
    classes: int = static(0)
    recurrence: str = static("gru")
    units: int = static(400)
    depth: int = static(32)
    conv: str = static("strided")
    bins: int = static(1)
    bin_limit: float = static(0.0)
    stored_latents: bool = static(False)
    actor_gradient: str = static("dynamics")
    optimiser: str = static("adam")
    learning_rate: float = 6e-4
    actor_rate: float = 8 / 60
    critic_rate: float = 8 / 60
    warmup: float = 1.0
    clip: float = 100.0
    horizon: float = 100.0
    entropy: float = 0.0
    unimix: float = 0.0
    free_nats: float = 3.0
    free_each: bool = static(False)
    rep_scale: float = 1.0
    replay_value: float = 0.0
    slow_rate: float = 1.0
    slow_scale: float = 0.0
    return_rate: float = 0.0
    noise: float = 0.3
    """standard deviation of the noise on continuous actions while training"""

    PRESETS: ClassVar[dict[str, dict]] = {
        "xs": {
            "num_envs": 8,
            "train_ratio": 64.0,
            "batch_size": 16,
            "batch_length": 32,
            "capacity": 200_000,
            "deter": 128,
            "hidden": 64,
            "units": 64,
            "depth": 8,
            # A vector's few numbers weigh less against the KL than an image's thousands.
            "free_nats": 0.0,
            "dyn_scale": 0.1,
            "rep_scale": 0.1,
            "learning_rate": 1e-3,
            "actor_rate": 0.3,
            "critic_rate": 1.0,
        },
        "paper": {},
    }

    @classmethod
    def default_preset(cls, backend: str) -> str:
        return "xs" if backend == "cpu" else "paper"

    def act(self, params, key, timestep, memory, *, explore: bool):
        policy_key, noise_key = jax.random.split(key)
        output = super().act(params, policy_key, timestep, memory, explore=explore)
        if not explore or isinstance(self.spec.action, Discrete):
            return output
        action = output.action + self.noise * jax.random.normal(noise_key, output.action.shape)
        action = jnp.clip(action, -1.0, 1.0)
        return output._replace(action=action, memory=Memory(output.memory.latent, action))
