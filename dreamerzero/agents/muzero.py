"""MuZero: learn the part of the world that a search needs, and act by searching.

Schrittwieser et al. 2020, "Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model";
Danihelka et al. 2022, "Policy Improvement by Planning with Gumbel".

env → search at every step → sequence replay → latent model, taught what the search found → env

  world    s_0 = h(o),  s_{k+1} = g(s_k, a),  reward, end, policy and value read from s_k
  policy   π = softmax(logits + σ(completed q)), what the search makes of the policy   (Gumbel, §4)
  value    z_t = r_{t+1} + … + γⁿ⁻¹ r_{t+n} + γⁿ v⁻(o_{t+n}), v⁻ of a copy that follows slowly
  loss     Σ_k l(π, p_k) + l(z, v_k) + l(r, r_k) + l(end) along K unrolled steps        (eq. 1)

Before it in the lineage: Dreamer, whose world shows what will be seen. After it: EfficientZero, and
TD-MPC2, which plans in such a world with continuous actions.

Different from the papers: the end of an episode is learnt; play without exploration, and not only
bootstraps, is that of the slow copy; replay is uniform unless `priority` is set.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dreamerzero import ops
from dreamerzero.agents import sequences
from dreamerzero.nn import distributions
from dreamerzero.nn.observations import is_picture
from dreamerzero.nn.optimisers import falling
from dreamerzero.planning import (
    Search,
    chosen,
    gumbel_search,
    improved_value,
    puct_search,
    sampled,
)
from dreamerzero.replay import symmetries, windows
from dreamerzero.replay.sequence import Frame
from dreamerzero.types import (
    ActorOutput,
    Discrete,
    EnvSpec,
    Metrics,
    Phase,
    Rollout,
    TimeStep,
    UsageError,
    static,
)
from dreamerzero.worlds.value_equivalent import Unroll, ValueEquivalent

CHOICES = {"search": ("gumbel", "puct"), "body": ("mlp", "resnet"), "encoder": ("conv", "lines")}


@struct.dataclass
class State:
    """What learning carries. `params` has the parts `world`; `slow`, which follows it, for
    bootstraps and for play; `observation`, the running moments of vector observations; and
    `updates`, on which the temperature of PUCT depends."""

    params: dict[str, Any]
    optimiser: Any
    replay: windows.Windows


@struct.dataclass
class Lesson:
    """What a policy should learn from a search: weights `[B, A]` over all actions, or over those
    `[B, A, ...]` that were sampled."""

    policy: jax.Array
    actions: jax.Array | None = None

    def forgotten(self, where):
        """No lesson `where [B]`: what is not done cannot be judged by what comes of it."""
        return self.replace(policy=jnp.where(where[:, None], 0.0, self.policy))


class Choice(NamedTuple):
    """What a search makes of B latents: what to do, `[B, ...]`; what to learn from it; and all that
    it found out on the way."""

    action: jax.Array
    lesson: Lesson
    search: Search


@struct.dataclass
class MuZero:
    """Gumbel MuZero with sizes for problems of a few numbers."""

    spec: EnvSpec = static()

    num_envs: int = static(32)
    """environments that run in parallel"""
    train_ratio: float = static(192.0)
    """replayed steps per step of the agent: more learns from less experience, at more compute"""
    batch_size: int = static(256)
    """windows in a batch"""
    unroll: int = static(5)
    """steps that the model is unrolled for in learning"""
    td_steps: int = static(10)
    """rewards in a value target before it is bootstrapped"""
    capacity: int = static(200_000)
    """frames the replay holds, over all environments"""

    search: str = static("gumbel")
    """gumbel, or puct as in the first paper"""
    simulations: int = static(16)
    """simulations of a search"""
    considered: int = static(16)
    """gumbel: actions that are considered at the root, at most"""
    tree_range: bool = static(True)
    """whether a search measures action values by the range of its whole tree, not by those at the
    same node alone; always where chance moves"""
    samples: int = static(0)
    """actions that are sampled at every state, to search among these only; 0 for all"""
    policy_samples: int = static(0)
    """how many of them are drawn from the policy itself, whatever `breadth` says of the others"""
    reanalysed: float = static(0.0)
    """share of the batch whose policy targets are searched anew"""
    mixed: bool = static(False)
    """whether these searches give the targets of values too, where data are stale"""
    consistency: float = static(0.0)
    """weight of the loss between imagined latents and those of what was seen; 0 for none"""
    reconstruction: float = static(0.0)
    """weight of the loss of small grids that imagined latents show, against those that were seen; 0
    for none"""
    prefix: int = static(0)
    """steps over which the sum of rewards is predicted, before it begins anew; 0 for each reward by
    itself"""
    augment: bool = static(False)
    """whether pictures and grids are shifted, dimmed and lit at random in learning"""

    body: str = static("mlp")
    """layers of representation and dynamics: mlp, or resnet, where grids and pictures are seen: it
    keeps the places apart"""
    encoder: str = static("conv")
    """how small grids are read, and what a resnet's layers are: conv, 3×3 convolutions, or lines,
    whole rows and columns"""
    latent: int = static(64)
    """numbers in the model's state; with resnet only in what remembers the value prefix"""
    layers: int = static(2)
    """hidden layers of representation and dynamics, or residual blocks"""
    units: int = static(128)
    """units of a hidden layer"""
    depth: int = static(16)
    """channels of the image encoder: itself in the first layer for small grids, a multiple of it in
    every stage for pictures; and those of a resnet"""
    support: int = static(20)
    """values and rewards are classes over h(x) from minus to plus this"""

    discount: float = 0.997
    """γ"""
    value_scale: float = 1.0
    """weight of the value's loss"""
    reward_scale: float = 1.0
    """weight of the reward's loss"""
    off_policy: float = 0.0
    """how much sooner values of old data are bootstrapped: the share of td_steps lost for every
    100,000 steps that all environments made since"""
    stale: float = 10_000.0
    """mixed: steps that all environments made since, after which data are stale"""
    warmup: float = 1000.0
    """mixed: updates before any data are"""
    slow_rate: float = 0.02
    """rate at which the slow world follows"""
    learning_rate: float = 2e-3
    """of AdamW, at first"""
    falling: float = 3000.0
    """updates after which the learning rate has fallen to 1/√2, then slower and slower"""
    weight_decay: float = 1e-4
    """of AdamW"""
    clip: float = 5.0
    """largest norm of the gradient"""
    priority: float = 0.0
    """how much more often windows are replayed whose value was wrong: the exponent α of its error;
    0 is uniform"""
    correction: float = 1.0
    """how much of that bias is corrected in the loss: the exponent β"""
    noise: float = 0.25
    """puct: share of noise in the root's prior, while training"""
    openings: float = 0.0
    """chance that a training game begins with a move at random, and then with one more, and so on:
    also what good play avoids has to be known"""
    breadth: float = 1.0
    """temperature of the policy that actions are sampled from"""
    concentration: float = 0.3
    """puct: of the noise's Dirichlet distribution"""
    cooling: float = 2000.0
    """puct: updates over which the temperature of the visits falls from 1 to a quarter"""

    PRESETS: ClassVar[dict[str, dict]] = {
        "default": {},
        # A game's value is its result, seen to the end; what is played is new data at little cost.
        "board": {
            "num_envs": 64,
            "train_ratio": 64.0,
            "td_steps": 45,
            "simulations": 32,
            "openings": 0.75,
            "support": 1,
            "discount": 1.0,
        },
        # Rewards are sums of tiles, and games have hundreds of moves. What later ones earn is known
        # only if imagined states have to show the board; a move slides whole lines of it.
        "2048": {
            "num_envs": 64,
            "train_ratio": 64.0,
            "td_steps": 10,
            "simulations": 32,
            "tree_range": False,
            "reconstruction": 1.0,
            "body": "resnet",
            "encoder": "lines",
            "depth": 32,
            "support": 200,
            "discount": 0.999,
            "value_scale": 0.25,
            "reward_scale": 5.0,
            "learning_rate": 3e-3,
        },
    }

    fills_cpu: ClassVar[bool] = True  # see training.lanes
    plays_games: ClassVar[bool] = True  # see agents.make
    foresees: ClassVar[bool] = True  # what actions lead to, with a model of its own

    @classmethod
    def default_preset(cls, backend: str) -> str:
        return "default"

    def check(self):
        """Raises UsageError for what no run could make sense of."""
        sequences.check(self, "muzero")
        if not self.sampling and not isinstance(self.spec.action, Discrete):
            raise UsageError(
                f"muzero searches over discrete actions; {self.spec.name} wants "
                f"{self.spec.action}. Try muzero-sampled there, or samples above 0."
            )
        sequences.check_choices(self, CHOICES)
        shape = self.spec.observation.shape
        if self.body == "resnet" and len(shape) < 2:
            raise UsageError(
                f"body resnet sees grids and pictures [H, W, ...]; {self.spec.name} shows shape "
                f"{shape}. Leave body at mlp."
            )
        small_grids = len(shape) > 1 and not is_picture(shape)
        for asked, what, off in (
            (self.encoder == "lines", "encoder lines reads", "encoder at conv"),
            (self.reconstruction, "reconstruction shows", "reconstruction at 0"),
        ):
            if asked and not small_grids:
                raise UsageError(
                    f"{what} grids [H, W, ...] smaller than pictures; {self.spec.name} shows shape "
                    f"{shape}. Leave {off}."
                )
        if self.sampling and self.spec.masked:
            raise UsageError(
                f"{self.spec.name} forbids moves, and sampled actions know of no rule. Try muzero."
            )
        if self.sampling and not 0 <= self.policy_samples <= self.samples:
            raise UsageError(
                f"policy_samples is from 0 to samples, {self.samples} here; got "
                f"{self.policy_samples}."
            )
        unrolls = ("unroll",) if self.foresees else ()
        sequences.check_sizes(self, "simulations", "considered", "td_steps", *unrolls)
        sequences.check_sizes(self, "latent", "support")
        sequences.check_shares(self, "reanalysed", "noise", "openings", "slow_rate", "discount")
        sequences.check_positive(self, "breadth", "concentration", "cooling", "falling", "clip")
        sequences.check_not_negative(
            self, "consistency", "reconstruction", "priority", "off_policy", "learning_rate"
        )
        sequences.check_not_negative(self, "value_scale", "reward_scale", "weight_decay")
        sequences.check_not_negative(self, "correction", "stale", "warmup")
        if self.reanalysed and not self._again:
            raise UsageError(
                f"reanalysed {self.reanalysed} of batch_size {self.batch_size} is less than a "
                "window. Give it a larger share, or 0 without mixed."
            )
        if self.mixed and not self.reanalysed:
            raise UsageError(
                f"mixed values are those of new searches, and reanalysed {self.reanalysed} of "
                f"batch_size {self.batch_size} asks for none. Give it a larger share, or leave "
                "mixed False."
            )

    @property
    def world(self) -> ValueEquivalent:
        return ValueEquivalent(
            spec=self.spec,
            latent=self.latent,
            layers=self.layers,
            units=self.units,
            depth=self.depth,
            support=self.support,
            body=self.body,
            encoder=self.encoder,
            discount=self.discount,
            value_scale=self.value_scale,
            reward_scale=self.reward_scale,
            consistency=self.consistency,
            reconstruction=self.reconstruction,
            prefix=self.prefix,
            augment=self.augment,
            foresees=self.foresees,
        )

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(self.clip),
            optax.adamw(falling(self.learning_rate, self.falling), weight_decay=self.weight_decay),
        )

    @property
    def batch_length(self) -> int:
        """Frames of a window: the last unrolled state is bootstrapped too."""
        return self.unroll + self.td_steps + 1

    @property
    def replayed_per_update(self) -> int:
        return self.batch_size * (self.unroll + 1)

    @property
    def sampling(self) -> int:
        """How many actions are sampled; 0 if all are searched."""
        return self.samples

    @property
    def _again(self) -> int:
        """How many windows of a batch are searched anew."""
        return round(self.reanalysed * self.batch_size)

    def init(self, key) -> State:
        world = self.world.init(key)
        params = {"world": world, "slow": jax.tree.map(jnp.copy, world)}
        return State(
            params=params | {"updates": jnp.int32(0)} | sequences.moments(self.spec),
            optimiser=self.optimiser.init(world),
            replay=windows.init(
                self.spec, self.num_envs, self.capacity, self.batch_length, self._no_lesson()
            ),
        )

    def memory(self, batch_size: int):
        """In games, whether nothing but openings was played yet."""
        return jnp.zeros(batch_size, bool) if self.spec.masked else ()

    def act(self, params, key, timestep: TimeStep, memory, *, explore: bool) -> ActorOutput:
        world = params["world" if explore else "slow"]
        root = self.root(params, world, timestep)
        choice = self.plan(params, world, key, root, explore=explore, legal=timestep.legal)
        if not explore or timestep.legal is None:
            return ActorOutput(choice.action, memory, choice.lesson)
        # Not 0 or 1: these are the keys into which `plan` splits its own.
        coin_key, any_key = jax.random.split(jax.random.fold_in(key, 2))
        coin = jax.random.bernoulli(coin_key, self.openings, memory.shape)
        opening = coin & (memory | timestep.is_first)
        anything = distributions.anything(any_key, timestep.legal)
        action = jnp.where(opening, anything, choice.action)
        return ActorOutput(action, opening, choice.lesson.forgotten(opening))

    def root(self, params, world, timestep: TimeStep):
        """Where a search begins: latents `[B, latent]` of what is seen."""
        return self.world.represent(world, sequences.see(self.spec, params, timestep.observation))

    def model(self, params, world):
        """What a search asks: `evaluate` and `step`, see `planning.search`."""
        return partial(self.world.evaluate, world), partial(self.world.step, world)

    def plan(self, params, world, key, root, *, explore: bool, legal=None) -> Choice:
        """Searches from roots `[B, ...]`, greedily unless `explore`; of games with the moves that
        are `legal [B, A]`."""
        root_key, search_key = jax.random.split(key)
        evaluate, step = self.model(params, world)
        illegal, updates = None if legal is None else ~legal, params["updates"]
        if not self.sampling:
            found = self._search(search_key, evaluate, step, root, illegal, updates, explore)
            return Choice(found.action, Lesson(found.policy), found)
        expand, evaluate, step = sampled(partial(self._propose, world), step)
        root = expand(root_key, root)
        found = self._search(search_key, evaluate, step, root, None, updates, explore)
        action = chosen(root.actions, found.action)
        return Choice(action, Lesson(found.policy, root.actions), found)

    def _search(self, key, evaluate, step, root, illegal, updates, explore: bool) -> Search:
        if self.search == "gumbel":
            return gumbel_search(
                key,
                evaluate,
                step,
                root,
                simulations=self.simulations,
                considered=self.considered,
                scale=float(explore),
                tree_range=self.tree_range,
                illegal=illegal,
            )
        return puct_search(
            key,
            evaluate,
            step,
            root,
            tree_range=self.tree_range,
            illegal=illegal,
            **self._puct(updates, explore),
        )

    def _puct(self, updates, explore: bool) -> dict:
        """How PUCT searches, and what it does about exploration."""
        temperature = jnp.maximum(0.25, 1.0 - 0.75 * updates / self.cooling)
        return {
            "simulations": self.simulations,
            "noise": self.noise * explore,
            "concentration": self.concentration,
            "temperature": temperature * explore,
        }

    def _propose(self, world, key, latent):
        """`samples` actions of each latent, with what `planning.sampled` wants of them."""
        outputs, value = self.world.evaluate(world, latent)
        policy = self.world.policy(outputs)
        broad = distributions.tempered(policy, self.breadth)
        parts = ((policy, self.policy_samples), (broad, self.samples - self.policy_samples))
        actions, log_density = distributions.stratified(key, parts)
        logits = policy.log_prob(actions) - log_density
        return jnp.moveaxis(actions, 0, 1), logits.T, value

    def observe(self, state: State, rollout: Rollout) -> State:
        params = sequences.take_in(self.spec, state.params, rollout.next_timestep.observation)
        return state.replace(params=params, replay=windows.add(state.replay, rollout))

    def learn(self, state: State, key) -> tuple[State, Metrics]:
        """One update on one batch of windows."""
        sample_key, search_key, side_key, world_key = jax.random.split(key, 4)
        frames, place, weights = windows.sample(
            state.replay, sample_key, self.batch_size, self.correction
        )
        if self.spec.symmetries:
            frames = symmetries.draw(self.spec, side_key, self.batch_size).frames(frames)
        observation = sequences.see(self.spec, state.params, frames.observation)
        frames = frames.replace(observation=observation)
        batch = self.targets(state, frames, search_key, windows.age(state.replay, place))
        batch = batch.replace(weight=weights)
        world = state.params["world"]
        (_, (error, metrics)), grads = jax.value_and_grad(self.world.loss, has_aux=True)(
            world, world_key, batch
        )
        descent, optimiser = self.optimiser.update(grads, state.optimiser, world)
        world = optax.apply_updates(world, descent)
        updates = state.params["updates"] + 1
        slow = optax.incremental_update(world, state.params["slow"], self.slow_rate)
        metrics["grad_norm"] = optax.tree.norm(grads)
        state = state.replace(
            params=state.params | {"world": world, "slow": slow, "updates": updates},
            optimiser=optimiser,
            replay=windows.update(state.replay, place, error + 1e-3, self.priority),
        )
        return state, metrics

    def targets(self, state: State, frames: Frame, key, age=0.0) -> Unroll:
        """What the model should say along windows `[batch_length, B, ...]`, each followed by `age`
        frames, `[B]`, of its stream."""
        steps = self.unroll
        lesson, searched = self._lesson(state, frames, key)
        value = self._returns(state, frames, age)
        if self.mixed:
            value = self._mixed(state, value, searched, age)
        # Whether the window's first episode still goes on behind each frame.
        on = jnp.cumprod(1.0 - frames.is_last[: steps + 1], axis=0)
        taught = jnp.any(frames.context.policy[: steps + 1] > 0, axis=-1)
        return Unroll(
            observation=frames.observation[0],
            action=frames.action[:steps],
            reward=frames.reward[1 : steps + 1],
            going_on=~frames.is_terminal[1 : steps + 1],
            stepped=on[:-1],
            policy=lesson.policy,
            value=value,
            decided=on * taught,
            sampled=lesson.actions,
            following=frames.observation[1 : steps + 1],
            legal=None if frames.legal is None else frames.legal[: steps + 1],
        )

    def _no_lesson(self) -> Lesson:
        """The shape of what `num_envs` searches teach."""
        if not self.sampling:
            return Lesson(jnp.zeros((self.num_envs, self.spec.action.num)))
        sizes = self.num_envs, self.sampling
        action = self.spec.action
        return Lesson(jnp.zeros(sizes), jnp.zeros((*sizes, *action.shape), action.dtype))

    def _lesson(self, state: State, frames: Frame, key):
        """What the searches in the first frames `[unroll + 1, B, ...]` teach: those that were made
        when they were played, or new ones by the slow world; and the values that these found."""
        lesson = jax.tree.map(lambda leaf: leaf[: self.unroll + 1], frames.context)
        again = self._again
        if not again:
            return lesson, None
        seen, legal = jax.tree.map(
            lambda leaf: leaf[: self.unroll + 1, :again].reshape(-1, *leaf.shape[2:]),
            (frames.observation, frames.legal),
        )
        slow = state.params["slow"]
        roots = self.world.represent(slow, seen)
        found = self.plan(state.params, slow, key, roots, explore=True, legal=legal)
        fresh, value = jax.tree.map(
            lambda leaf: leaf.reshape(-1, again, *leaf.shape[1:]),
            (found.lesson, improved_value(found.search)),
        )
        return jax.tree.map(lambda old, new: old.at[:, :again].set(new), lesson, fresh), value

    def _returns(self, state: State, frames: Frame, age):
        """n-step returns `[unroll + 1, B]` of the first frames, bootstrapped by the slow world: the
        older the window, the sooner."""
        slow, lanes = state.params["slow"], jnp.arange(frames.reward.shape[1])
        share = self.off_policy * self.num_envs * age / 100_000
        horizon = jnp.maximum(self.td_steps - jnp.floor(share * self.td_steps), 1)
        horizon = jnp.broadcast_to(horizon.astype(jnp.int32), lanes.shape)
        # Looked at are only the frames that returns are bootstrapped in, not all of the window:
        # n steps on, or the episode's last frame if it comes before.
        times = jnp.arange(self.batch_length)[:, None]
        ends = jnp.where(frames.is_last, times, self.batch_length)
        next_end = jax.lax.cummin(ends, axis=0, reverse=True)[1 : self.unroll + 2]
        until = jnp.minimum(next_end, times[: self.unroll + 1] + horizon)
        latents = self.world.represent(slow, frames.observation[until, lanes])
        _, value = self.world.evaluate(slow, latents)
        value = jnp.zeros_like(frames.reward).at[until, lanes].set(value)
        return jax.vmap(ops.n_step_returns, (1, 1, 1, 1, None, 0), 1)(
            frames.reward[1:],
            self.spec.sign * self.discount * (1.0 - frames.is_terminal[1:]),
            value[1:],
            1.0 - frames.is_last[1:],
            self.td_steps,
            horizon,
        )

    def _mixed(self, state: State, value, searched, age):
        """`value [unroll + 1, B]`, where data are stale those that were `searched` in the first
        windows (Wang et al. 2024, §4.3)."""
        again = searched.shape[1]
        age = jnp.broadcast_to(age, value.shape[1])
        stale = self.num_envs * age[:again] > self.stale
        stale &= state.params["updates"] >= self.warmup
        return value.at[:, :again].set(jnp.where(stale, searched, value[:, :again]))

    def phases(self, steps: int) -> tuple[Phase, ...]:
        return sequences.phases(self, steps)
