"""Stochastic MuZero: the learnt world knows what is up to chance, and the search asks it.

Antonoglou et al. 2022, "Planning in Stochastic Environments with a Learned Model".

  world    an action leads to an afterstate, one of C outcomes from there to the next state
  search   PUCT where the agent moves; where chance does, outcomes in proportion to σ
  loss     MuZero's + l(c, σ_k) + l(z, Q_k), with c the code of what happened

All else is `muzero.py`'s. With `--agent.search gumbel` every simulation draws its outcomes, and
there are no nodes of chance. Different from the paper: EfficientZero's consistency, which gives the
codes their meaning (in 2048 they all became one without it; `reconstruction` does as well); values
are n-step returns, not λ-returns; and see `worlds.chance`.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from flax import struct

from dreamerzero.agents.muzero import Choice, Lesson, MuZero
from dreamerzero.planning import stochastic_search
from dreamerzero.types import UsageError, static
from dreamerzero.worlds.chance import Chance


@struct.dataclass
class MuZeroStochastic(MuZero):
    """MuZero for worlds of chance, with sizes for small problems."""

    search: str = static("puct")
    simulations: int = static(50)
    consistency: float = static(2.0)
    codes: int = static(32)
    """what can happen after an action, at most"""

    PRESETS: ClassVar[dict[str, dict]] = MuZero.PRESETS | {
        # Nodes of chance take their simulations; the board gives the codes their meaning.
        "2048": MuZero.PRESETS["2048"] | {"simulations": 50, "consistency": 0.0}
    }

    def check(self):
        super().check()
        for field in ("samples", "prefix"):
            if getattr(self, field):
                raise UsageError(f"muzero-stochastic has no {field}: leave it at 0.")
        if self.codes < 2:
            raise UsageError(f"codes is at least 2, or nothing is up to chance; got {self.codes}.")

    @property
    def world(self) -> Chance:
        return Chance(**vars(super().world), codes=self.codes)

    def plan(self, params, world, key, root, *, explore: bool, legal=None) -> Choice:
        if self.search == "gumbel":
            return super().plan(params, world, key, root, explore=explore, legal=legal)
        found = stochastic_search(
            key,
            partial(self.world.evaluate, world),
            partial(self.world.decide, world),
            partial(self.world.happen, world),
            root,
            illegal=None if legal is None else ~legal,
            **self._puct(params["updates"], explore),
        )
        return Choice(found.action, Lesson(found.policy), found)
