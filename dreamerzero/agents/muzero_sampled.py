"""Sampled MuZero: search where there are too many actions to try them all.

Hubert et al. 2021, "Learning and Planning in Complex Action Spaces".

  search   over K actions a_i ~ β = π^(1/τ) at every state, with the prior β̂/β · π          (eq. 7)
  policy   max_π Σ_i w_i log π(a_i), the w_i what the search makes of the K actions

All else is `muzero.py`'s; before it in the lineage MuZero, after it EfficientZero V2. The search is
Gumbel's, which is not the paper's.
"""

from __future__ import annotations

from flax import struct

from dreamerzero.agents.muzero import MuZero
from dreamerzero.types import static


@struct.dataclass
class MuZeroSampled(MuZero):
    """Sampled MuZero for a few continuous actions; discrete ones are sampled too."""

    samples: int = static(16)
    support: int = static(30)
    discount: float = 0.99
