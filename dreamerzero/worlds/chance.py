"""A value-equivalent world in which chance has a move of its own.

    a_k = φ(s_{k−1}, a)                 what the action leads to: the afterstate
    σ_k, Q_k, r_k = ψ(a_k)              how likely each of C outcomes is; what is known before
    c_k = one-hot argmax e(o_{k−1}, o_k)    which one it was, as a code
    s_k = g(a_k, c_k)                   the state after it; all else as in `value_equivalent`

Antonoglou et al. 2022, "Planning in Stochastic Environments with a Learned Model". What the codes
mean is learnt: the encoder e gets the gradient of whatever is read from s_k, straight through the
argmax. Only learning knows them; imagining, they are drawn from σ. Different from the paper: e sees
the last two observations, not all, and is not drawn towards its own argmax: then in one of six runs
it called everything that happens by one name. And rewards are read from the afterstate, as their
means: from s_k codes told them in learning, and a search, which draws codes, had them as noise.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero import ops
from dreamerzero.nn.latent_model import ChanceNetworks
from dreamerzero.types import Prediction, static
from dreamerzero.worlds.value_equivalent import Unroll, ValueEquivalent, halved


@struct.dataclass
class Chance(ValueEquivalent):
    """A `ValueEquivalent` world without value prefix, with `codes` for what can happen."""

    codes: int = static(32)

    @property
    def net(self) -> ChanceNetworks:
        return ChanceNetworks(*self._sizes, codes=self.codes)

    def step(self, params, key, action, latent):
        """Imagines one step `[B, ...]` with one outcome of chance, drawn by `key`."""
        afterstate, logits, _ = self.decide(params, action, latent)
        return self.happen(params, jax.random.categorical(key, logits), afterstate)

    def decide(self, params, action, latent):
        """φ and ψ, but for the reward: afterstates `[B, latent]`, logits `[B, C]` of what may
        happen, values `[B]`."""
        afterstate = self._apply(params, ChanceNetworks.dynamics, latent, self._action(action))
        logits, value = self._apply(params, ChanceNetworks.foretell, afterstate)
        return afterstate, logits, self.scalar.mean(value)

    def happen(self, params, code, afterstate) -> tuple[Prediction, jax.Array]:
        """g: what follows if `code [B]` happens in afterstates `[B, latent]`."""
        code = jax.nn.one_hot(code, self.codes)
        latent = self._apply(params, ChanceNetworks.happen, afterstate, code)
        return self._outcome(params, latent, afterstate), latent

    def _foresee(self, params, root, batch: Unroll):
        seen = jnp.concatenate([batch.observation[None], batch.following])
        logits = self._apply(params, ChanceNetworks.code, seen[:-1], seen[1:])
        log_probs = jax.nn.log_softmax(logits)
        codes = ops.straight_through(log_probs, jnp.zeros_like(log_probs))

        def body(latent, inputs):
            action, code = inputs
            afterstate = self._apply(params, ChanceNetworks.dynamics, halved(latent), action)
            latent = self._apply(params, ChanceNetworks.happen, afterstate, code)
            return latent, (latent, afterstate)

        inputs = self._action(batch.action), codes
        _, (latents, afterstates) = jax.lax.scan(body, root, inputs)
        chance, value = self._apply(params, ChanceNetworks.foretell, afterstates)
        happened = jax.lax.stop_gradient(codes)
        losses = {
            "chance": -jnp.sum(happened * jax.nn.log_softmax(chance), axis=-1),
            "afterstate": self.value_scale * self.scalar.loss(value, batch.value[:-1]),
        }
        return latents, afterstates, losses
