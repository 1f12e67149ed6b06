"""CMA-ES: parameters by evolution, when there are few of them and no gradient.

    x_i ~ N(m, σ² C),  i = 1 … N        ask
    m, σ, C ← towards the fittest       tell, from their order alone

Hansen 2016, "The CMA Evolution Strategy: A Tutorial", by evosax. C holds D² numbers, and a
generation costs about D³; a separable one learns the diagonal of C alone, for N · D. That is enough
unless parameters have to change together in ways that do not lie along the axes. A generation of 64
takes 89 CPU-ms for D = 867 and 141 for 1,088, and separable 1 and 3.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from evosax.algorithms import CMA_ES, Sep_CMA_ES
from flax import struct

from dreamerzero.types import UsageError, static

State = Any  # evosax's: `mean [D]`, `std`, and what it knows of C


@struct.dataclass
class Evolution:
    """The search for the fittest of D numbers; all methods are pure."""

    dims: int = static()
    population: int = static(64)
    separable: bool = static(False)
    mirrored: bool = static(False)
    """Candidates come in pairs m ± x, and the fitter of each pair stands for both (Auger et al.
    2011): if both could be chosen, what they say of their length would cancel, and σ fall."""
    std: float = 0.1  # σ at first

    def check(self):
        """Raises UsageError for a population that cannot evolve."""
        if self.population < 4 or (self.mirrored and self.population % 2):
            raise UsageError(
                f"population is 4 or more, and even if mirrored; got {self.population}."
            )

    def init(self, mean) -> State:
        """A search around `mean [D]`."""
        strategy, params = self._strategy()
        return strategy.init(jax.random.key(0), mean, params)  # nothing in it is drawn

    def ask(self, key, state: State) -> tuple[jax.Array, State]:
        """Candidates `[N, D]`, and the state to tell about them."""
        strategy, params = self._strategy()
        candidates, state = strategy.ask(key, state, params)
        if self.mirrored:
            candidates = jnp.concatenate([candidates, 2.0 * state.mean - candidates])
        return candidates, state

    def tell(self, state: State, candidates, fitness) -> State:
        """The state after candidates `[N, D]` proved so fit, `[N]`, the more the better. What is
        not finite ranks last, and equal ones in any order."""
        strategy, params = self._strategy()
        fitness = jnp.where(jnp.isfinite(fitness), fitness, -jnp.inf)
        if self.mirrored:
            pair, own = jnp.arange(self.population // 2), fitness.reshape(2, -1)
            fitter = own.argmax(axis=0)
            candidates = candidates.reshape(2, -1, self.dims)[fitter, pair]
            fitness = own[fitter, pair]
        # As ranks: evosax gives equal fitnesses weights that no longer add up.
        rank = jnp.argsort(jnp.argsort(-fitness)).astype(jnp.float32)
        return strategy.tell(jax.random.key(0), candidates, rank, state, params)[0]

    def _strategy(self):
        """evosax's strategy and its parameters. Made anew each time: it holds traced arrays."""
        kind = Sep_CMA_ES if self.separable else CMA_ES
        drawn = self.population // 2 if self.mirrored else self.population
        strategy = kind(population_size=drawn, solution=jnp.zeros(self.dims))
        params = strategy.default_params.replace(std_init=jnp.asarray(self.std, jnp.float32))
        if self.separable:
            # Fewer numbers are learnt faster (Ros & Hansen 2008, §3), which evosax leaves out.
            faster = (self.dims + 2) / 3
            c_1 = faster * params.c_1
            c_mu = jnp.minimum(1.0 - c_1, faster * params.c_mu)
            params = params.replace(c_1=c_1, c_mu=c_mu)
        return strategy, params
