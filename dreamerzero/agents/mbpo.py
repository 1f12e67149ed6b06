"""MBPO: trust the model for a few steps, but for very many of them.

Janner et al. 2019, "When to Trust Your Model: Model-Based Policy Optimization" (algorithm 2).

env → replay → ensemble → short rollouts from replayed states → imagined replay → SAC → env

  world      [r, s′ − s] ~ N(μ_e(s, a), σ_e²(s, a)), refitted every F steps
  rollouts   s₀ from the replay, a ~ π, k steps of a random elite each; k grows over the run
  behaviour  SAC on batches that are imagined but for a twentieth

Errors of a model compound with the length of its rollouts, so these are short and branch off from
where the agent truly was. Before it in the lineage: Dyna, with a table for the ensemble and single
steps for the rollouts. After it: PETS, the same ensemble and no policy at all; Dreamer, whose
rollouts give gradients.

Different from the paper: between two refits the agent does not learn, and then makes up for it; a
rollout that ends begins again elsewhere, so that all imagined batches are full.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero.agents import sac, sequences
from dreamerzero.agents.sac import SAC
from dreamerzero.nn import distributions
from dreamerzero.nn.networks import rows_at_once
from dreamerzero.replay import ring
from dreamerzero.types import Metrics, Phase, Transition, UsageError, static
from dreamerzero.worlds.ensemble import Ensemble, weight_decays


@struct.dataclass
class State(sac.State):
    """SAC's, and what learning the world carries. `params` has the part `world` too."""

    world_optimiser: Any
    imagined: ring.Ring


@struct.dataclass
class MBPO(SAC):
    """MBPO with the paper's sizes and HalfCheetah's schedule; `xs` is smaller, for short runs."""

    train_ratio: float = static(40 * 256.0)
    target_entropy: float = -0.5

    refit_every: int = static(250)
    """steps between two refits of the world, after each of which all updates are caught up with"""
    rollouts: int = static(100_000)
    """rollouts that branch off at every refit"""
    shortest: int = static(1)
    """steps of a rollout at first"""
    longest: int = static(1)
    """steps of a rollout at last"""
    grows_from: float = 20_000.0
    """step of the run from which on rollouts grow"""
    grows_until: float = 150_000.0
    """step of the run at which they are longest"""
    retained: int = static(4)
    """refits whose rollouts are learnt from, the last ones, if all were as long as today's"""
    real_ratio: float = static(0.05)
    """share of real transitions in a batch"""

    members: int = static(7)
    """networks of the ensemble"""
    elites: int = static(5)
    """members that are asked, the best on held-out data"""
    world_layers: int = static(4)
    """hidden layers of a member, from 2"""
    world_units: int = static(200)
    """units of a hidden layer of a member"""
    world_rate: float = 1e-3
    """of the world's Adam"""
    pessimism: str = static("none")
    """what is taken from imagined rewards: none; epistemic, how far members lie apart; or
    aleatoric, how noisy they say it is"""
    penalty: float = 1.0
    """how much of it"""

    PRESETS: ClassVar[dict[str, dict]] = {
        "xs": SAC.PRESETS["xs"]
        | {
            "train_ratio": 20 * 128.0,
            "prefill": 250,
            "capacity": 20_000,
            "target_entropy": -1.0,
            "refit_every": 125,
            "rollouts": 2_500,
            "shortest": 15,  # what a few numbers do is soon known well enough to be followed
            "longest": 15,
            "members": 5,
            "elites": 3,
            "world_layers": 2,
            "world_units": 64,
        },
        "paper": {},
        "hopper": {"train_ratio": 20 * 256.0, "longest": 15, "target_entropy": -1 / 3},
    }

    fills_cpu: ClassVar[bool] = True  # its updates are a loop wherever environments are stepped

    def check(self):
        super().check()
        self.world.check()
        sequences.check_sizes(self, "refit_every", "rollouts", "shortest", "retained")
        sequences.check_sizes(self, "world_units")
        if self.longest < self.shortest:
            raise UsageError(
                f"longest ({self.longest}) must not be under shortest ({self.shortest})."
            )
        sequences.check_order(self, "grows_from", "grows_until")
        sequences.check_refits(self)
        sequences.check_shares(self, "real_ratio")

    @property
    def world(self) -> Ensemble:
        return Ensemble(
            spec=self.spec,
            members=self.members,
            elites=self.elites,
            units=self.world_units,
            weight_decay=weight_decays(self.world_layers),
            termination=self.spec.termination,
            pessimism=self.pessimism,
            penalty=self.penalty,
            learning_rate=self.world_rate,
            discount=1.0,  # γ is SAC's: here a discount is the probability of going on
        )

    def init(self, key) -> State:
        sac_key, world_key = jax.random.split(key)
        state = super().init(sac_key)
        world = self.world.init(world_key)
        capacity = self.rollouts * self.longest * self.retained
        return State(
            params=state.params | {"world": world},
            slow_critic=state.slow_critic,
            optimiser=state.optimiser,
            replay=state.replay,
            world_optimiser=self.world.optimiser.init(world.members),
            imagined=ring.init(Transition.example(self.spec), capacity),
        )

    def refit(self, state: State, key) -> tuple[State, Metrics]:
        """Fits the world to all that was seen, and lets rollouts branch off in it."""
        fit_key, branch_key = jax.random.split(key)
        world, world_optimiser, metrics = self.world.fit(
            state.params["world"],
            state.world_optimiser,
            fit_key,
            state.replay.items,
            state.replay.size,
        )
        state = state.replace(
            params=state.params | {"world": world}, world_optimiser=world_optimiser
        )
        length = self.length(state.replay.count)
        metrics |= {"rollout_length": length.astype(jnp.float32)}
        return state.replace(imagined=self.branch(state, branch_key, length)), metrics

    def length(self, step):
        """Steps k of a rollout, an integer, after so many steps of the run."""
        progress = (step - self.grows_from) / (self.grows_until - self.grows_from)
        length = self.shortest + jnp.clip(progress, 0.0, 1.0) * (self.longest - self.shortest)
        return length.astype(jnp.int32)

    def branch(self, state: State, key, length) -> ring.Ring:
        """The imagined replay with `length` more steps of every rollout."""
        params = state.params

        def anywhere(key):
            return ring.sample(state.replay, key, self.rollouts).observation

        def step(i, carry):
            imagined, observation = carry
            keys = jax.random.split(jax.random.fold_in(key, i), 4)
            outputs = jax.lax.map(
                partial(self._outputs, params), observation, batch_size=rows_at_once()
            )
            action = distributions.squashed(outputs).sample(seed=keys[0])
            latent = self.world.observe(params["world"], None, None, None, observation, None)
            outcome, latent = self.world.step(params["world"], keys[1], action, latent)
            terminated = ~jax.random.bernoulli(keys[2], outcome.discount)
            steps = Transition(observation, action, outcome.reward, terminated, latent.observation)
            onwards = jnp.where(terminated[:, None], anywhere(keys[3]), latent.observation)
            return ring.add(imagined, steps), onwards

        start = state.imagined, anywhere(jax.random.fold_in(key, self.longest))
        return jax.lax.fori_loop(0, length, step, start)[0]

    def learn(self, state: State, key) -> tuple[State, Metrics]:
        """One update of SAC on what was imagined lately, and a little of what was seen."""
        real_key, imagined_key, update_key = jax.random.split(key, 3)
        real = round(self.real_ratio * self.batch_size)
        lately = self.retained * self.rollouts * self.length(state.replay.count)
        seen = ring.sample(state.replay, real_key, real)
        imagined = ring.sample(state.imagined, imagined_key, self.batch_size - real, newest=lately)
        batch = jax.tree.map(lambda *parts: jnp.concatenate(parts), seen, imagined)
        return self.update(state, update_key, batch)

    def phases(self, steps: int) -> tuple[Phase, ...]:
        first, train, collect = sequences.refits(self, steps)
        updates = max(1, round(self.train_ratio * self.refit_every / self.batch_size))
        return (
            Phase("prefill", 1, first, prepare="refit", repeats=updates),
            Phase("train", train, collect, prepare="refit", repeats=updates),
        )
