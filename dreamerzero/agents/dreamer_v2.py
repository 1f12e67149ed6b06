"""Dreamer v2: categorical latents, a balanced KL, and an actor for discrete actions too.

Hafner et al. 2021, "Mastering Atari with Discrete World Models".

  world      32 × 32 classes with straight-through gradients, β (0.8 dyn + 0.2 rep)   (alg. 1, 2)
  actor      − ρ sg(R^λ − v) log π(a|s) − (1 − ρ) R^λ − η H(π)                        (eq. 6)
  critic     ½ (v − sg R^λ)², R^λ bootstrapped with a copy made every 100 updates      (eq. 4, 5)

ρ is 1 for discrete and 0 for continuous actions. The machinery is `dreamer.py`'s; before it in the
lineage v1, after it v3. The coefficients are those for Atari; continuous control from images had
a KL of weight 1. Different from the paper: the policy is a normal around tanh μ, not truncated;
there is no weight decay; replay knows no episodes; a batch has 16 sequences, not 50; networks have
v3's numbers of layers and, for pictures, its stages; a reconstruction costs the squared error,
not half of it; vectors are measured and symlog as in v3.
"""

from __future__ import annotations

from typing import ClassVar

from flax import struct

from dreamerzero.agents.dreamer import Dreamer
from dreamerzero.types import static


@struct.dataclass
class DreamerV2(Dreamer):
    """DreamerV2 with the paper's coefficients; only `xs` has rates of its own, for short runs."""

    batch_length: int = static(50)
    train_ratio: float = static(50.0)
    deter: int = static(600)
    hidden: int = static(600)
    classes: int = static(32)
    recurrence: str = static("gru")
    units: int = static(400)
    depth: int = static(48)
    conv: str = static("strided")
    bins: int = static(1)
    bin_limit: float = static(0.0)
    stored_latents: bool = static(False)
    actor_gradient: str = static("auto")
    slow_target: bool = static(True)
    slow_every: int = static(100)
    optimiser: str = static("adam")
    learning_rate: float = 2e-4
    actor_rate: float = 0.2
    critic_rate: float = 0.5
    warmup: float = 1.0
    clip: float = 100.0
    horizon: float = 200.0
    entropy: float = 1e-3
    unimix: float = 0.0
    free_nats: float = 0.0
    dyn_scale: float = 0.08
    rep_scale: float = 0.02
    replay_value: float = 0.0
    slow_rate: float = 1.0
    slow_scale: float = 0.0
    return_rate: float = 0.0

    PRESETS: ClassVar[dict[str, dict]] = {
        "xs": {
            "num_envs": 8,
            "train_ratio": 64.0,
            "batch_length": 32,
            "capacity": 200_000,
            "deter": 128,
            "hidden": 64,
            "stoch": 8,
            "classes": 8,
            "units": 64,
            "depth": 8,
            # Thousands of updates instead of millions: values must arrive sooner.
            "slow_every": 10,
            "horizon": 100.0,
            "learning_rate": 1e-3,
            "actor_rate": 0.3,
            "critic_rate": 1.0,
        },
        "paper": {},
    }

    @classmethod
    def default_preset(cls, backend: str) -> str:
        return "xs" if backend == "cpu" else "paper"
