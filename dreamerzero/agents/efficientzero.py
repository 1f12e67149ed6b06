"""EfficientZero: MuZero that gets more out of every frame it has seen.

Ye et al. 2021, "Mastering Atari Games with Limited Data".

  consistency  −cos(q(p(s_k)), p(h(o_k))): imagined latents are what seeing would make them   (§4.1)
  prefix       rewards as a sum that an LSTM predicts, not each at its very step              (§4.2)
  off-policy   z_t over fewer steps, the older the data: its actions are not today's          (§4.3)
  augment      pictures are shifted and dimmed, for the root and for what is compared with it

All else is `muzero.py`'s; each part is a field, and 0 turns it off. After it in the lineage:
EfficientZero V2.

Different from the paper: its horizon of 5 loses a step for every 30,000 updates since the data were
played, here one of 10 loses the same share for as many environment steps, of which the paper makes
one an update. Values are bootstrapped by the slow world; the paper searches those states anew. As
in MuZero here, replay is uniform and old states are not searched again, unless `priority` and
`reanalysed` say so. The consistency weighs a quarter of the paper's 2.
"""

from __future__ import annotations

from flax import struct

from dreamerzero.agents.muzero import MuZero
from dreamerzero.types import static


@struct.dataclass
class EfficientZero(MuZero):
    """EfficientZero with sizes for problems of a few numbers."""

    consistency: float = static(0.5)
    prefix: int = static(5)
    augment: bool = static(True)
    off_policy: float = 0.67
