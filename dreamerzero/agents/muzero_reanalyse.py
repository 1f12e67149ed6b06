"""MuZero Reanalyse: what was played long ago is searched again with what is known now.

Schrittwieser et al. 2021, "Online and Offline Reinforcement Learning by Planning with a Learned
Model".

  policy   π from a search of the slow world in every replayed state, not from the one that chose

All else is `muzero.py`'s, where values are bootstrapped anew in any case, and where nothing is
learnt of moves at random that began a game (`openings`), also not here. Since nothing but actions
and what came of them is taken from the past, it can learn from another run alone (`--replay`): then
it is MuZero Unplugged.
"""

from __future__ import annotations

from flax import struct

from dreamerzero.agents.muzero import MuZero
from dreamerzero.types import static


@struct.dataclass
class MuZeroReanalyse(MuZero):
    """MuZero that searches all it learns from again; also from another run's replay."""

    reanalysed: float = static(1.0)
