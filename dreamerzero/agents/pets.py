"""PETS: learn how the world works and how well that is known, and plan every step.

Chua et al. 2018, "Deep Reinforcement Learning in a Handful of Trials using Probabilistic Dynamics
Models" (algorithm 1).

env → replay → ensemble → search over action sequences, each judged by many particles → env

  world      [r, s′ − s] ~ N(μ_e(s, a), σ_e²(s, a)), refitted every F steps
  planner    argmax_a E[Σ_t γ^t r_t], E the mean over particles: each follows one member all the way
             (TS∞), or another at every step (TS1); or there is one, of all members' mean

Nothing learns behaviour: the first action of the plan is taken, and the search begins anew from the
rest of it. Before it in the lineage: MBPO, the same ensemble with a policy. After it: PlaNet, the
same search in latent space. Different from the paper: rewards are learnt too; fits stop early and
have the weight decays of MBPO; actions are searched for as `planning.cem` says.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero import planning
from dreamerzero.agents import sequences
from dreamerzero.replay import ring
from dreamerzero.types import (
    ActorOutput,
    EnvSpec,
    Metrics,
    Phase,
    Rollout,
    TimeStep,
    Transition,
    UsageError,
    static,
)
from dreamerzero.worlds.ensemble import PARTICLES, Ensemble, Latent, weight_decays

PLANNERS = ("random", "cem", "icem", "mppi")


@struct.dataclass
class State:
    """What learning carries. `params` has the part `world`."""

    params: dict[str, Any]
    optimiser: Any
    replay: ring.Ring


@struct.dataclass
class Memory:
    """What the last search leaves to the next one, moved on by a step."""

    mean: jax.Array  # [B, H, A]
    kept: jax.Array  # [B, M, H, A], the best sequences, if the planner wants them


@struct.dataclass
class PETS:
    """PETS with the paper's sizes for its cart-pole; `xs` is smaller in everything."""

    spec: EnvSpec = static()

    num_envs: int = static(1)
    """environments that run in parallel"""
    prefill: int = static(200)
    """steps with random actions, before the world is first fitted"""
    refit_every: int = static(200)
    """steps between two refits of the world"""
    capacity: int = static(100_000)
    """transitions the replay holds"""

    planner: str = static("cem")
    """how action sequences are searched for: random, cem, icem or mppi"""
    propagation: str = static("tsinf")
    """whom a particle asks: tsinf, one member for all steps; ts1, another one at every step; or
    mean, all of them"""
    particles: int = static(20)
    """particles that judge a sequence; one does where all members are asked"""
    planned: int = static(25)
    """steps that are planned ahead"""
    population: int = static(400)
    """action sequences that each iteration of the search tries"""
    elites: int = static(40)
    """sequences that the next iteration is fitted to"""
    iterations: int = static(5)
    """iterations of the search, at every step"""
    spread: float = 0.5
    """standard deviation of actions at the beginning of a search"""
    momentum: float = 0.1
    """share of the last iteration's distribution that stays in the next, for cem and icem"""
    decay: float = static(1.25)
    """by what the population shrinks from iteration to iteration, for icem"""
    colour: float = 2.0
    """exponent of the noise's power over frequency, for icem: 0 is white, and more is slower"""
    kept: float = static(0.3)
    """share of the elites that go into the next population, for icem"""
    optimism: float = 2.0
    """returns by which a sequence weighs e times as much, for mppi"""
    least_spread: float = 0.05
    """standard deviation of actions, at least, for mppi"""

    members: int = static(5)
    """networks of the ensemble"""
    best: int = static(5)
    """members that are asked, the best on held-out data"""
    layers: int = static(3)
    """hidden layers of a member, from 2"""
    units: int = static(500)
    """units of a hidden layer"""
    batch_size: int = static(32)
    """transitions in a batch of each member"""
    learning_rate: float = 1e-3
    """of Adam"""
    discount: float = 1.0
    """γ, of the planner"""

    PRESETS: ClassVar[dict[str, dict]] = {
        "xs": {
            "refit_every": 100,
            "capacity": 20_000,
            "particles": 5,
            "planned": 30,
            "population": 64,
            "elites": 8,
            "iterations": 3,
            "layers": 2,
            "units": 64,
            "batch_size": 64,
            "learning_rate": 3e-3,
        },
        "paper": {},
    }

    fills_cpu: ClassVar[bool] = True  # see training.lanes

    @classmethod
    def default_preset(cls, backend: str) -> str:
        return "xs" if backend == "cpu" else "paper"

    def check(self):
        """Raises UsageError for what no run could make sense of."""
        sequences.check_shooting(self, "pets", "dqn or muzero")
        self.world.check()
        sequences.check_choices(self, {"planner": PLANNERS, "propagation": PARTICLES})
        sequences.check_sizes(self, "num_envs", "capacity", "batch_size", "refit_every")
        sequences.check_sizes(self, "particles", "units")
        sequences.check_positive(self, "spread", "optimism")
        sequences.check_shares(self, "kept", "momentum", "discount")
        sequences.check_not_negative(self, "learning_rate")
        if self.decay < 1.0:
            raise UsageError(f"decay is at least 1, where nothing shrinks; got {self.decay}.")
        sequences.check_refits(self)

    @property
    def world(self) -> Ensemble:
        return Ensemble(
            spec=self.spec,
            members=self.members,
            elites=self.best,
            units=self.units,
            weight_decay=weight_decays(self.layers),
            batch_size=self.batch_size,
            particles=self.propagation,
            termination=self.spec.termination,
            learning_rate=self.learning_rate,
            discount=self.discount,
        )

    def init(self, key) -> State:
        world = self.world.init(key)
        return State(
            params={"world": world},
            optimiser=self.world.optimiser.init(world.members),
            replay=ring.init(Transition.example(self.spec), self.capacity),
        )

    def memory(self, batch_size: int) -> Memory:
        """Nothing is planned: everything is in the middle."""
        kept = round(self.kept * self.elites) if self.planner == "icem" else 0
        sequence = (self.planned, *self.spec.action.shape)
        return Memory(jnp.zeros((batch_size, *sequence)), jnp.zeros((batch_size, kept, *sequence)))

    def act(self, params, key, timestep: TimeStep, memory, *, explore: bool) -> ActorOutput:
        batch_size = len(timestep.is_first)

        def renewed(fresh, old):
            return jax.vmap(jnp.where)(timestep.is_first, fresh, old)

        memory = jax.tree.map(renewed, self.memory(batch_size), memory)
        world = params["world"]
        step = partial(self.world.step, world)
        particles = 1 if self.propagation == "mean" else self.particles
        plan_key, random_key = jax.random.split(key)

        def one(key, observation, memory):
            latent = Latent(observation, jnp.int32(-1))
            score = planning.scorer(step, latent, particles=particles)
            return self.plan(key, score, memory)

        def planned():
            keys = jax.random.split(plan_key, batch_size)
            return jax.vmap(one)(keys, timestep.observation, memory)

        def anything():
            shape = (batch_size, *self.spec.action.shape)
            return jax.random.uniform(random_key, shape, minval=-1.0, maxval=1.0), memory

        # A world that was never fitted has opinions, but no reasons.
        return ActorOutput(*jax.lax.cond(world.inputs.count > 0, planned, anything))

    def plan(self, key, score, memory: Memory):
        """The first action `[A]` of the best plan, and what is left of it for the next step.

        Args:
          score: `(key, actions [N, H, A]) -> returns [N]`, of this world or of any other.
          memory: without a batch axis.
        """
        bound = jnp.ones(self.spec.action.shape)
        mean, spread = memory.mean, jnp.full_like(memory.mean, self.spread)
        sizes = {"population": self.population}
        if self.planner == "random":
            plan = planning.random_shooting(
                key, score, -bound, bound, horizon=self.planned, **sizes
            )
            return plan.actions[0], memory
        sizes |= {"elites": self.elites, "iterations": self.iterations}
        if self.planner == "cem":
            start = mean, spread, -bound, bound
            plan = planning.cem(key, score, *start, **sizes, alpha=self.momentum)
        elif self.planner == "icem":
            start = mean, spread, memory.kept, -bound, bound
            noise = {"decay": self.decay, "beta": self.colour, "alpha": self.momentum}
            plan = planning.icem(key, score, *start, **sizes, **noise)
        else:
            start = mean, spread, -bound, bound
            limits = {"min_std": self.least_spread, "max_std": self.spread}
            plan = planning.mppi(key, score, *start, **sizes, temperature=self.optimism, **limits)
        kept = planning.shift(plan.elites[: len(memory.kept)])
        end = None if self.planner == "icem" else 0.0
        return plan.actions[0], Memory(planning.shift(plan.mean, end), kept)

    def observe(self, state: State, rollout: Rollout) -> State:
        return state.replace(replay=ring.add(state.replay, Transition.each(rollout)))

    def learn(self, state: State, key) -> tuple[State, Metrics]:
        """Fits the world to all that was seen."""
        replay = state.replay
        world, optimiser, metrics = self.world.fit(
            state.params["world"], state.optimiser, key, replay.items, replay.size
        )
        return state.replace(params={"world": world}, optimiser=optimiser), metrics

    def phases(self, steps: int) -> tuple[Phase, ...]:
        first, train, collect = sequences.refits(self, steps)
        return (Phase("random", 1, first), Phase("train", train, collect))
