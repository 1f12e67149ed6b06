"""PlaNet: learn a world from replayed sequences, and plan in it at every step.

Hafner et al. 2019, "Learning Latent Dynamics for Planning from Pixels".

env → sequence replay → RSSM → cross-entropy search over action sequences, in latent space → env

  world      L = Σ recon + reward + continue + max(free, KL(posterior ‖ prior))            (eq. 3)
  planner    argmax_a Σ_t (Π_{k<t} γ_k) r_t along the prior's likeliest dream, by CEM  (algorithm 2)

Nothing learns behaviour. Before it in the lineage: PETS, which searches in the same way through an
ensemble. After it: Dreamer, the same world with an actor in place of the search.

Different from the paper: the search dreams the likeliest futures, and draws actions within two
standard deviations; a run begins by planning in the untrained world, not with random episodes; the
networks are those of `dreamer-v1`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dreamerzero.agents import sequences
from dreamerzero.agents.sequences import Memory
from dreamerzero.nn.networks import CONVS
from dreamerzero.planning import cem, scorer
from dreamerzero.replay import sequence
from dreamerzero.types import (
    ActorOutput,
    EnvSpec,
    Metrics,
    Phase,
    Rollout,
    TimeStep,
    static,
)
from dreamerzero.worlds.rssm import RSSM


@struct.dataclass
class State:
    """What learning carries. `params` has the parts `world`, and `observation`, the running moments
    of vector observations."""

    params: dict[str, Any]
    optimiser: Any
    replay: sequence.SequenceReplay


@struct.dataclass
class PlaNet:
    """PlaNet with the paper's coefficients; `xs` is smaller in everything, the search included."""

    spec: EnvSpec = static()

    num_envs: int = static(16)
    """environments that run in parallel"""
    train_ratio: float = static(500.0)
    """replayed steps per step of the agent: more learns from less experience, at more compute"""
    batch_size: int = static(50)
    """sequences in a batch"""
    batch_length: int = static(50)
    """frames in a sequence"""
    capacity: int = static(1_000_000)
    """frames the replay holds, over all environments"""

    planned: int = static(12)
    """steps that are planned ahead"""
    population: int = static(1000)
    """action sequences that each iteration of the search tries"""
    elites: int = static(100)
    """sequences that the next iteration is fitted to"""
    iterations: int = static(10)
    """iterations of the search, at every step"""

    deter: int = static(200)
    """units of the recurrent state"""
    hidden: int = static(200)
    """units inside the recurrent model"""
    stoch: int = static(30)
    """Gaussian latent variables"""
    units: int = static(200)
    """units of encoder, decoder and heads"""
    depth: int = static(32)
    """channels of the image encoder: itself in the first layer for small grids, a multiple of it in
    every stage for pictures"""
    conv: str = static("strided")
    """how pictures are halved and doubled: strided, or pool, which is dearer"""

    noise: float = 0.3
    """standard deviation of the noise on actions while training"""
    learning_rate: float = 1e-3
    """of Adam"""
    clip: float = 1000.0
    """largest norm of the gradient"""
    horizon: float = 333.0
    """1 / (1 − γ), in steps"""
    free_nats: float = 3.0
    """KL below which the latent is left alone, for the mean over states"""
    kl_scale: float = 1.0
    """weight of the KL"""

    PRESETS: ClassVar[dict[str, dict]] = {
        "xs": {
            "num_envs": 8,
            "train_ratio": 128.0,
            "batch_size": 16,
            "batch_length": 32,
            "capacity": 200_000,
            "planned": 15,
            "population": 64,
            "elites": 8,
            "iterations": 3,
            "deter": 128,
            "hidden": 64,
            "units": 64,
            "depth": 8,
            # A vector's few numbers weigh less against the KL than an image's thousands, and the
            # search wants to know them exactly.
            "free_nats": 0.0,
            "kl_scale": 0.02,
        },
        "paper": {},
    }

    fills_cpu: ClassVar[bool] = True  # see training.lanes

    @classmethod
    def default_preset(cls, backend: str) -> str:
        return "xs" if backend == "cpu" else "paper"

    def check(self):
        """Raises UsageError for what no run could make sense of."""
        sequences.check_sizes(self, "batch_length", "deter", "hidden", "stoch")
        sequences.check(self, "planet")
        sequences.check_shooting(self, "planet", "dreamer")
        sequences.check_positive(self, "horizon", "clip")
        sequences.check_not_negative(self, "learning_rate", "noise")
        sequences.check_choices(self, {"conv": CONVS})

    @property
    def world(self) -> RSSM:
        return RSSM(
            spec=self.spec,
            deter=self.deter,
            hidden=self.hidden,
            stoch=self.stoch,
            units=self.units,
            depth=self.depth,
            conv=self.conv,
            latent="gaussian",
            recurrence="gru",
            free_each=False,
            # The whole KL's gradient: to the prior by one term, to the posterior by the other.
            dyn_scale=self.kl_scale,
            rep_scale=self.kl_scale,
            free_nats=self.free_nats,
            horizon=self.horizon,
        )

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(self.clip), optax.adam(self.learning_rate, eps=1e-4)
        )

    @property
    def replayed_per_update(self) -> int:
        return self.batch_size * self.batch_length

    def init(self, key) -> State:
        params = {"world": self.world.init(key)}
        return State(
            params=params | sequences.moments(self.spec),
            optimiser=self.optimiser.init(params["world"]),
            replay=sequence.init(self.spec, self.num_envs, self.capacity),
        )

    def memory(self, batch_size: int) -> Memory:
        return sequences.memory(self.spec, self.world, batch_size)

    def act(self, params, key, timestep: TimeStep, memory, *, explore: bool) -> ActorOutput:
        latent_key, plan_key, noise_key = jax.random.split(key, 3)
        latent = sequences.filter_in(self.spec, self.world, params, latent_key, timestep, memory)
        action = self.greedy(params, plan_key, latent)
        if explore:
            action += self.noise * jax.random.normal(noise_key, action.shape)
            action = jnp.clip(action, -1.0, 1.0)
        return ActorOutput(action, Memory(latent, action))

    def greedy(self, params, key, latent):
        """The first actions `[B, A]` of the best plans from `latent` `[B, ...]`."""
        keys = jax.random.split(key, latent.deter.shape[0])
        return jax.vmap(lambda key, latent: self.plan(params["world"], key, latent))(keys, latent)

    def plan(self, params, key, latent):
        """The first action `[A]` of the best plan from one latent, leaves without a batch axis."""
        shape = (self.planned, *self.spec.action.shape)
        bound = jnp.ones(self.spec.action.shape)
        # The likeliest dreams, not sampled ones as in the paper: a sample's own luck weighs more
        # than the difference between two plans, until populations are large.
        score = scorer(lambda _, *inputs: self.world.step(params, None, *inputs), latent)
        return cem(
            key,
            score,
            jnp.zeros(shape),
            jnp.ones(shape),
            -bound,
            bound,
            population=self.population,
            elites=self.elites,
            iterations=self.iterations,
        ).actions[0]

    def observe(self, state: State, rollout: Rollout) -> State:
        return sequences.remember(self.spec, state, rollout)

    def learn(self, state: State, key) -> tuple[State, Metrics]:
        """One update of the world on one batch of sequences."""
        sample_key, loss_key = jax.random.split(key)
        replay, batch = sequences.sample(self, state, sample_key)
        world = state.params["world"]
        (_, (_, metrics)), grads = jax.value_and_grad(self.world.loss, has_aux=True)(
            world, loss_key, batch.frames, batch.memory.latent, batch.memory.action
        )
        updates, optimiser = self.optimiser.update(grads, state.optimiser)
        metrics["grad_norm"] = optax.tree.norm(grads)
        params = state.params | {"world": optax.apply_updates(world, updates)}
        return state.replace(params=params, optimiser=optimiser, replay=replay), metrics

    def phases(self, steps: int) -> tuple[Phase, ...]:
        return sequences.phases(self, steps)
