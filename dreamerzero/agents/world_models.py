"""World Models: see, then foretell, then evolve the simplest of controllers inside the dream.

Ha & Schmidhuber 2018, "World Models".

env → pictures → V;  env → V's codes → M;  M's dreams → C, by evolution → env

  V  o → z          a variational autoencoder of single pictures                         (§2.1)
  M  z, a, h → z′   what comes next, a mixture at temperature τ; its reward, and its end   (§2.2)
  C  a = tanh(W [z, h] + b)                                                               (§2.3)
  fitness           Σ_t P(under way) r_t, the mean over whole dreams; CMA-ES asks nothing more

One after the other, each until it is done; `rounds` begins anew with what C then sees (§5).
Before it in the lineage: PETS, which plans in the world it learns and keeps no policy. After it:
PlaNet and the Dreamers, which learn V and M as one and their actors by gradients.

Different from the paper: C is evolved in dreams, which it did for Doom, and if asked to in the real
environment thereafter; for driving too, M foretells rewards. Ends of dreams are weighed by their
probability, not drawn. All candidates of a generation have the same beginnings and the same luck.
V and M learn from different episodes: once V is learnt, only its codes of what follows are kept,
which take 1/50 of the room.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dreamerzero import envs
from dreamerzero.agents import sequences
from dreamerzero.planning import Evolution, imagined_return
from dreamerzero.replay import ring, sequence
from dreamerzero.types import (
    ActorOutput,
    Box,
    Discrete,
    EnvSpec,
    Metrics,
    Phase,
    Prediction,
    Rollout,
    TimeStep,
    UsageError,
    static,
)
from dreamerzero.worlds.vision_memory import Code, Latent, VisionMemory

SEES = ("z", "zh", "zch")
"""What C reads: what is seen; also M's hidden state; or all that M remembers."""

ROLLOUT = 20
"""Steps that are collected at a time."""


@struct.dataclass
class State:
    """What learning carries. `params` has the parts `world`, of V and M, and `controller` `[D]`,
    the fittest so far; the frames of `codes` have in place of pictures what V made of them."""

    params: dict[str, Any]
    optimiser: dict[str, Any]
    pictures: ring.Ring
    codes: sequence.SequenceReplay
    search: Any  # CMA-ES's own


@struct.dataclass
class Memory:
    """What acting carries: the filtered latent, the action taken there, and the noise on it."""

    latent: Latent
    action: jax.Array
    noise: jax.Array


@struct.dataclass
class WorldModels:
    """V, M and C with the paper's sizes for driving; `paper-doom` has those for Doom."""

    spec: EnvSpec = static()

    num_envs: int = static(64)
    """environments that run in parallel"""
    pictures: int = static(100_000)
    """pictures that V learns from, 12 KiB each; the first ones of each round"""
    capacity: int = static(4_000_000)
    """frames of which M's replay holds the codes, over all environments, 8 bytes for each number of
    z; the paper keeps ten million"""
    rounds: int = static(1)
    """times that all is learnt, with equal shares of the steps; later ones are collected with C"""

    latents: int = static(32)
    """numbers in z"""
    depth: int = static(32)
    """channels of V's first layer; the others have 2, 4 and 8 times as many"""
    units: int = static(256)
    """units of M's LSTM"""
    mixtures: int = static(5)
    """normals in the mixture of each number of z"""
    reward: bool = static(True)
    """whether M foretells rewards; if not, every step pays 1 in a dream"""
    done: bool = static(True)
    """whether M foretells ends; if not, dreams have none but their last step"""
    restart: bool = static(False)
    """whether M is told where an episode begins"""

    sees: str = static("zh")
    """what C reads: z, zh (also M's hidden state) or zch (also its cells)"""
    hidden: int = static(0)
    """units of C's hidden layer; without one (0) C is linear"""
    bias: bool = static(True)
    """whether C has biases"""

    vision_updates: int = static(50_000)
    """updates of V"""
    vision_batch: int = static(100)
    """pictures in a batch"""
    memory_updates: int = static(4_000)
    """updates of M; 0 leaves it as it is at first"""
    memory_batch: int = static(100)
    """sequences in a batch"""
    memory_length: int = static(999)
    """steps in a sequence"""

    generations: int = static(1_800)
    """generations of C in dreams"""
    real_generations: int = static(0)
    """generations of C after those, in the real environment as its name builds it; what they take
    there is none of the run's steps"""
    population: int = static(64)
    """candidates in a generation"""
    episodes: int = static(16)
    """dreams, or real episodes, of each candidate"""
    dreamt_steps: int = static(1_000)
    """steps of each, at most"""
    separable: bool = static(False)
    """evolve with the diagonal of the covariance alone"""
    mirrored: bool = static(False)
    """candidates in pairs on opposite sides of the mean"""
    check_every: int = static(25)
    """generations after which their mean is compared with who acts so far"""
    check_episodes: int = static(1_024)
    """episodes for that; the fitter of the two acts"""

    noise: float = 1.0
    """standard deviation of the noise on C's actions, or on its choices, while collecting"""
    persistence: float = 0.9
    """of the noise, from one step to the next: 0 is white"""
    vision_rate: float = 1e-4
    """of Adam, for V"""
    memory_rate: float = 1e-3
    """of Adam, for M, at first"""
    memory_final_rate: float = 1e-5
    """at the end: it falls by the same factor with every update"""
    clip: float = 1.0
    """largest element of M's gradient"""
    free_nats: float = 0.5
    """KL of V, for each number of z, below which it is left alone"""
    done_weight: float = 10.0
    """weight of ends in M's loss"""
    temperature: float = 1.0
    """τ: how much chance there is in dreams; what is hard to exploit is above 1"""
    sigma: float = 0.1
    """width of the first generation"""

    # A lane's dreams are batches already, and its pictures fill the memory.
    fills_cpu: ClassVar[bool] = True
    horizon: ClassVar[float] = float("inf")  # what a dream pays late is not worth less

    PRESETS: ClassVar[dict[str, dict]] = {
        "xs": {
            "num_envs": 16,
            "pictures": 20_000,
            "capacity": 500_000,
            "depth": 8,
            "vision_updates": 2_000,
            "vision_batch": 64,
            "memory_updates": 2_000,
            "memory_batch": 16,
            "memory_length": 256,
            "generations": 100,
            "population": 32,
            "episodes": 8,
            "check_every": 10,
            "check_episodes": 128,
            "vision_rate": 1e-3,
            # With the paper's .5 a V this small has so much noise in z that balls are lost in it.
            "free_nats": 1.5,
            "persistence": 0.95,
        },
        "paper-driving": {},
        "paper-doom": {
            "latents": 64,
            "units": 512,
            "reward": False,
            "restart": True,
            "sees": "zch",
            "bias": False,
            "memory_length": 500,
            "dreamt_steps": 2_100,
            "temperature": 1.15,
        },
    }

    @classmethod
    def default_preset(cls, backend: str) -> str:
        return "xs" if backend == "cpu" else "paper-driving"

    def check(self):
        """Raises UsageError for what no run could make sense of."""
        self.world.check()
        self.evolution.check()
        sequences.check_networks(self, "world-models")
        sequences.check_choices(self, {"sees": SEES})
        if self.real_generations and isinstance(self._env, envs.HostEnv):
            raise UsageError(
                f"real_generations evolve C inside the program, and {self.spec.name} is stepped by "
                "Python. Evolve it in dreams: leave real_generations at 0."
            )
        if self.real_generations and self._env.spec != self.spec:
            raise UsageError(
                f"real_generations need an environment that its name can build: {self.spec.name} "
                "builds another. Evolve it in dreams: leave real_generations at 0."
            )
        sequences.check_sizes(self, "num_envs", "rounds", "latents", "mixtures")
        sequences.check_sizes(self, "vision_batch", "memory_batch", "memory_length", "check_every")
        sequences.check_sizes(self, "episodes", "check_episodes", "dreamt_steps")
        sequences.check_shares(self, "persistence")
        sequences.check_positive(self, "temperature", "sigma", "memory_rate", "memory_final_rate")
        sequences.check_positive(self, "clip")
        sequences.check_not_negative(self, "vision_rate", "noise")
        for field in ("generations", "real_generations"):
            if getattr(self, field) % self.check_every:
                raise UsageError(
                    f"{field} is a multiple of check_every, {self.check_every}; got "
                    f"{getattr(self, field)}."
                )
        frames, least = self.capacity // self.num_envs, max(2 * ROLLOUT, self.memory_length + 1)
        if frames < least:
            raise UsageError(
                f"capacity {self.capacity} over {self.num_envs} environments leaves {frames} "
                f"frames each; {least} or more are needed."
            )
        if self.pictures < ROLLOUT * self.num_envs:
            raise UsageError(
                f"pictures is at least {ROLLOUT} for each of {self.num_envs} environments; got "
                f"{self.pictures}."
            )

    @property
    def world(self) -> VisionMemory:
        return VisionMemory(
            spec=self.spec,
            latents=self.latents,
            depth=self.depth,
            units=self.units,
            mixtures=self.mixtures,
            reward=self.reward,
            done=self.done,
            restart=self.restart,
            free_nats=self.free_nats,
            done_weight=self.done_weight,
            temperature=self.temperature,
        )

    @property
    def _env(self):
        return envs.make(self.spec.name, self.spec.action_repeat)

    @property
    def layers(self) -> tuple[int, ...]:
        """What C reads, its hidden layer if it has one, and what it says: numbers in each."""
        action = self.spec.action
        inputs = self.latents + self.units * (len(self.sees) - 1)
        outputs = action.num if isinstance(action, Discrete) else action.shape[0]
        return (inputs, *filter(None, [self.hidden]), outputs)

    @property
    def evolution(self) -> Evolution:
        return Evolution(
            dims=sum((n + self.bias) * m for n, m in pairwise(self.layers)),
            population=self.population,
            separable=self.separable,
            mirrored=self.mirrored,
            std=self.sigma,
        )

    @property
    def optimisers(self) -> dict[str, optax.GradientTransformation]:
        last = max(self.memory_updates, 1)  # of a round

        def falling(count):
            progress = jnp.minimum(count / last, 1.0)
            return self.memory_rate * (self.memory_final_rate / self.memory_rate) ** progress

        return {
            "vision": optax.adam(self.vision_rate),
            "memory": optax.chain(optax.clip(self.clip), optax.adam(falling)),
        }

    def init(self, key) -> State:
        world = self.world.init(key)
        picture = jnp.zeros(self.spec.observation.shape, self.spec.observation.dtype)
        coded = dataclasses.replace(self.spec, observation=Box((2 * self.latents,)))
        controller = jnp.zeros(self.evolution.dims)
        return State(
            params={"world": world, "controller": controller},
            optimiser={name: kind.init(world[name]) for name, kind in self.optimisers.items()},
            pictures=ring.init(picture, self.pictures),
            codes=sequence.init(coded, self.num_envs, self.capacity),
            search=self.evolution.init(controller),
        )

    def memory(self, batch_size: int) -> Memory:
        action = jnp.zeros((batch_size, *self.spec.action.shape), self.spec.action.dtype)
        noise = jnp.zeros((batch_size, self.layers[-1]))
        return Memory(self.world.initial(batch_size), action, noise)

    def act(self, params, key, timestep: TimeStep, memory, *, explore: bool) -> ActorOutput:
        see_key, noise_key = jax.random.split(key)
        code = self.world.encode(params["world"], timestep.observation)
        latent = self.world.follow(
            params["world"],
            memory.latent,
            memory.action,
            code.sample(see_key),
            timestep.is_first,
        )
        fresh, rho = jax.random.normal(noise_key, memory.noise.shape), self.persistence
        noise = rho * memory.noise + self.noise * jnp.sqrt(1.0 - rho**2) * fresh
        action = self.decide(params["controller"], latent, noise if explore else 0.0)
        return ActorOutput(action, Memory(latent, action, noise), code)

    def greedy(self, params, key, latent):
        """C's actions `[B, ...]` in latents `[B, ...]`."""
        return self.decide(params["controller"], latent)

    def decide(self, controller, latent: Latent, noise=0.0):
        """What C, numbers `[D]`, does in latents `[B, ...]`; none of it while all are 0."""
        parts = {"z": latent.z, "h": latent.hidden, "c": latent.cell}
        x, used = jnp.concatenate([parts[name] for name in self.sees], axis=-1), 0
        for layer, (inputs, outputs) in enumerate(pairwise(self.layers)):
            size = (inputs + self.bias) * outputs
            weights = controller[used : used + size].reshape(-1, outputs)
            x = jnp.tanh(x) if layer else x
            x = x @ weights[:inputs] + (weights[inputs] if self.bias else 0.0)
            used += size
        if isinstance(self.spec.action, Discrete):
            return jnp.argmax(x + noise, axis=-1)
        return jnp.clip(jnp.tanh(x) + noise, -1.0, 1.0)

    def observe(self, state: State, rollout: Rollout) -> State:
        """Keeps the pictures for V, and for M the codes that V, as it is, makes of them."""
        before, after = rollout.timestep, rollout.next_timestep
        pictures = before.observation.reshape(-1, *before.observation.shape[2:])

        def encode(step):
            """Of what comes after, only ends are kept: where there are none any code will do."""
            after, code = step
            return jax.lax.cond(
                after.is_last.any(),
                lambda: self.world.encode(state.params["world"], after.observation),
                lambda: code,
            )

        coded = Rollout(
            before.replace(observation=rollout.extras.numbers),
            rollout.action,
            after.replace(observation=jax.lax.map(encode, (after, rollout.extras)).numbers),
        )
        return state.replace(
            pictures=ring.add(state.pictures, pictures), codes=sequence.add(state.codes, coded)
        )

    def learn_vision(self, state: State, key) -> tuple[State, Metrics]:
        """One update of V, on any of the pictures."""
        sample_key, loss_key = jax.random.split(key)
        pictures = ring.sample(state.pictures, sample_key, self.vision_batch)
        return self._update(state, "vision", self.world.vision_loss, loss_key, pictures)

    def forget(self, state: State, key) -> tuple[State, Metrics]:
        """V is another, and codes mean something else: M and the search for C begin anew with them,
        from the weights that they have."""
        none = jnp.zeros_like(state.codes.head)
        memory = self.optimisers["memory"].init(state.params["world"]["memory"])
        state = state.replace(
            codes=state.codes.replace(head=none, fresh=none),
            optimiser=state.optimiser | {"memory": memory},
            search=self.evolution.init(state.params["controller"]),
        )
        return state, {}

    def learn_memory(self, state: State, key) -> tuple[State, Metrics]:
        """One update of M, on one batch of sequences."""
        sample_key, loss_key = jax.random.split(key)
        codes, frames, _ = sequence.sample(
            state.codes, sample_key, self.memory_batch, self.memory_length + 1
        )
        state, code = state.replace(codes=codes), Code.of(frames.observation)
        return self._update(state, "memory", self.world.memory_loss, loss_key, frames, code)

    def _update(self, state, part: str, loss, *inputs):
        """`state` after a step down the gradient of `loss` of one part of the world."""
        world = state.params["world"]
        (_, metrics), grads = jax.value_and_grad(
            lambda learnt: loss(world | {part: learnt}, *inputs), has_aux=True
        )(world[part])
        updates, optimiser = self.optimisers[part].update(grads, state.optimiser[part])
        world = world | {part: optax.apply_updates(world[part], updates)}
        return state.replace(
            params=state.params | {"world": world}, optimiser=state.optimiser | {part: optimiser}
        ), metrics | {"grad_norm": optax.tree.norm(grads)}

    def evolve(self, state: State, key, place: str = "dream") -> tuple[State, Metrics]:
        """`check_every` generations of C, and a closer look at their mean beside who acts."""
        evolve_key, check_key = jax.random.split(key)

        def generation(search, key):
            ask_key, fitness_key = jax.random.split(key)
            candidates, search = self.evolution.ask(ask_key, search)
            fitness, steps = self.fitness(state, fitness_key, candidates, self.episodes, place)
            search = self.evolution.tell(search, candidates, fitness)
            means = {"return": fitness.mean(), "return_best": fitness.max(), "steps": steps}
            return search, means | {"sigma": search.std}

        search, metrics = jax.lax.scan(
            generation, state.search, jax.random.split(evolve_key, self.check_every)
        )
        both = jnp.stack([state.params["controller"], search.mean])
        fitness, _ = self.fitness(state, check_key, both, self.check_episodes, place)
        fitter = jnp.int32(fitness[1] > fitness[0])
        metrics = jax.tree.map(jnp.mean, metrics)
        metrics |= {"return_mean": fitness[1], "return_champion": fitness[fitter]}
        params = state.params | {"controller": both[fitter]}
        metrics = {f"{place}_{name}": value for name, value in metrics.items()}
        return state.replace(params=params, search=search), metrics

    def evolve_outside(self, state: State, key) -> tuple[State, Metrics]:
        """`evolve` in the real environment."""
        return self.evolve(state, key, place="real")

    def fitness(self, state: State, key, controllers, episodes: int, place: str = "dream"):
        """What controllers `[N, D]` earn in that place, `[N]` means over `episodes`; and the steps
        of the longest. All have the same beginnings and the same luck."""
        start_key, step_key = jax.random.split(key)
        start, step = {"dream": self.dream, "real": self.reality}[place](state, start_key, episodes)
        shape = len(controllers), episodes
        returns, steps = imagined_return(
            step_key,
            lambda _, at: jax.vmap(self.decide)(controllers, at[0]),
            jax.vmap(step, (None, 0, 0)),
            jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*shape, *leaf.shape[1:])), start),
            shape,
            self.dreamt_steps,
        )
        return returns.mean(axis=1), steps

    def dream(self, state: State, key, number: int):
        """Where `number` dreams begin, the latents and nothing else; and how they go on."""

        def step(key, action, at):
            prediction, latent = self.world.step(state.params["world"], key, action, at[0])
            return prediction, (latent,)

        return (self.begin(state, key, number),), step

    def reality(self, state: State, key, number: int):
        """Where `number` real episodes begin, latents and states of the environment; and how they
        go on."""
        env, world = self._env, state.params["world"]
        reset_key, see_key = jax.random.split(key)
        env_state, timestep = jax.vmap(env.reset)(jax.random.split(reset_key, number))
        none = self.memory(number)

        def see(key, latent, action, timestep):
            return self.world.observe(
                world, key, latent, action, timestep.observation, timestep.is_first
            )

        def step(key, action, at):
            latent, env_state = at
            step_key, see_key = jax.random.split(key)
            keys = jax.random.split(step_key, len(action))
            env_state, timestep, after = jax.vmap(env.step)(keys, env_state, action)
            latent = see(see_key, latent, action, timestep)
            return Prediction(after.reward, 1.0 - after.is_last), (latent, env_state)

        return (see(see_key, none.latent, none.action, timestep), env_state), step

    def begin(self, state: State, key, number: int) -> Latent:
        """The beginnings of episodes that were seen, any of them; latents `[number, ...]`."""
        choose_key, see_key = jax.random.split(key)
        frames, size = state.codes.frames, state.codes.size
        held = jnp.arange(frames.reward.shape[1]) < size[:, None]
        first = frames.is_first & held
        first = jnp.where(first.any(), first, held).ravel()  # none: the replay forgot them all
        count = jnp.cumsum(first)
        which = jax.random.randint(choose_key, (number,), 1, count[-1] + 1)
        place = jnp.searchsorted(count, which)
        code = Code.of(frames.observation.reshape(first.size, -1)[place])
        return self.world.start(code.sample(see_key), jnp.ones(number, bool))

    def phases(self, steps: int) -> tuple[Phase, ...]:
        look = -(-self.pictures // (self.num_envs * ROLLOUT))
        collect = steps // (self.rounds * self.num_envs * ROLLOUT) - look
        if collect * ROLLOUT <= self.memory_length:
            least = (look + self.memory_length // ROLLOUT + 1) * ROLLOUT * self.num_envs
            raise UsageError(
                f"These sizes need at least {self.rounds * least} steps for each repeat of an "
                f"action; got {steps}."
            )
        plan = (
            Phase("look", look, ROLLOUT, learn=""),
            Phase("vision", self.vision_updates, 0, learn="learn_vision"),
            Phase("forget", 1, 0, learn="forget"),
            Phase("collect", collect, ROLLOUT, learn=""),
            Phase("memory", self.memory_updates, 0, learn="learn_memory"),
            Phase("controller", self.generations // self.check_every, 0, learn="evolve"),
            Phase("outside", self.real_generations // self.check_every, 0, learn="evolve_outside"),
        )
        plan = [phase for phase in plan if phase.iterations]
        if self.rounds == 1:
            return tuple(plan)
        return tuple(
            phase._replace(name=f"{phase.name}-{number}")
            for number in range(1, self.rounds + 1)
            for phase in plan
        )
