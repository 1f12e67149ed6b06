"""EfficientZero: MuZero that gets more out of every frame it has seen.

Ye et al. 2021, "Mastering Atari Games with Limited Data".

  consistency  −cos(q(p(s_k)), p(h(o_k))): imagined latents are what seeing would make them   (§4.1)
  prefix       rewards as a sum that an LSTM predicts, not each at its very step              (§4.2)
  off-policy   z_t over l ≤ n steps: the older the data, the fewer of its actions             (§4.3)
  augment      pictures are shifted and dimmed, for the root and for what is compared with it

All else is `muzero.py`'s; each part is a field, and 0 turns it off. After it in the lineage:
EfficientZero V2.

Different from the paper: l = n − ⌊ρ n · age⌋, where the age of a window is the share of the run so
far that was played after it, not of the whole run; values are bootstrapped by the slow world, as in
MuZero here, not by new searches of its frames; `reanalysed` and `priority` are off as there; and
the consistency weighs less, as problems of a few numbers want it.
"""

from __future__ import annotations

from flax import struct

from dreamerzero.agents.muzero import MuZero
from dreamerzero.types import static


@struct.dataclass
class EfficientZero(MuZero):
    """EfficientZero with sizes for problems of a few numbers."""

    consistency: float = static(2.0)
    prefix: int = static(5)
    augment: bool = static(True)
    off_policy: float = 0.67
