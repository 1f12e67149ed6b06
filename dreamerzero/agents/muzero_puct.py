"""MuZero with the search it was published with: PUCT, noise at the root, and a temperature.

Schrittwieser et al. 2020, "Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model".

  action   ~ N(s, a)^(1/τ), the visits of the search; τ falls from 1 to 1/4               (eq. 6)
  policy   π(a) = N(s, a) / Σ N
  values   measured by the range of the whole tree                                        (eq. 5)

All else is `muzero.py`'s. The visits of a search are few numbers, so that it takes more simulations
than Gumbel's to learn from.
"""

from __future__ import annotations

from flax import struct

from dreamerzero.agents.muzero import MuZero
from dreamerzero.types import static


@struct.dataclass
class MuZeroPUCT(MuZero):
    """MuZero as in the first paper, with sizes for problems of a few numbers."""

    search: str = static("puct")
    simulations: int = static(25)
    td_steps: int = static(30)
