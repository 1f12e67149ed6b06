"""EfficientZero V2: one recipe for actions that are counted and for those that are measured.

Wang et al. 2024, "EfficientZero V2: Mastering Discrete and Continuous Control with Limited Data".

  search       Gumbel's over 16 actions a_i, 4 of them ~ π and 12 ~ π with 3 times its standard
               deviation; over all if they are discrete                                      (§4.2)
  policy       max_π Σ_i w_i log π(a_i), the w_i what the search makes of the a_i
  value        z_t = r_{t+1} + … + γⁿ v⁻(o_{t+n}) while data are fresh; once they are stale, and the
               model has been learnt for a while, what a new search finds                    (§4.3)
  consistency  as in EfficientZero; rewards are those of single steps again

All else is `muzero.py`'s; each part is a field, and 0 or False turns it off. Before it in the
lineage: EfficientZero and MuZero Sampled.

Different from the paper: the search's prior is corrected for how the actions were drawn, π / (¼ π +
¾ β), and its policy is learnt whole, not the best action alone with a bonus for entropy. The
search's value is Σ w_i q(a_i), where the paper takes the mean over simulations: of these few most
try actions that turn out bad. A quarter of the batch is searched anew, not all of it, and only
there values are replaced. Data are stale after 10,000 steps, not 20,000, and after 1,000 updates,
not 40,000; the searches are shorter, and replay is uniform. The paper's programs keep the value
prefix for Atari: `prefix` does. The consistency weighs a quarter of the paper's 2; pictures,
where the paper has 5, may want 1.25.
"""

from __future__ import annotations

from flax import struct

from dreamerzero.agents.muzero import MuZero
from dreamerzero.types import Discrete, static


@struct.dataclass
class EfficientZeroV2(MuZero):
    """EfficientZero V2 with sizes for problems of a few numbers."""

    samples: int = static(16)
    """continuous actions that are sampled at every state; discrete ones are all searched"""
    policy_samples: int = static(4)
    reanalysed: float = static(0.25)
    mixed: bool = static(True)
    consistency: float = static(0.5)
    augment: bool = static(True)
    support: int = static(30)
    discount: float = 0.99
    breadth: float = 9.0  # three times the standard deviation

    @property
    def sampling(self) -> int:
        return 0 if isinstance(self.spec.action, Discrete) else self.samples
