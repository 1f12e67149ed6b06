"""Dreamer v3: learn a world from replayed sequences, and behaviour inside its dreams.

Hafner et al. 2023, "Mastering Diverse Domains through World Models".

env → sequence replay → RSSM → imagination from every replayed state → actor, critic → env

  world      L = Σ recon + reward + continue + dyn + 0.1 rep                               (eq. 3)
  critic     two-hot cross-entropy of R^λ_t = r_t + γ c_t ((1−λ) v_t + λ R^λ_{t+1})      (eq. 4, 10)
  actor      − sg((R^λ − v) / max(1, S)) log π(a|s) − η H(π)                            (eq. 6, 7)

Before it in the lineage: PlaNet, the same world planned in at every step. After it: MuZero, whose
world predicts nothing but what search needs.

Different from the paper: vectors are measured in units of their own spread before they are symlog.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dreamerzero import ops
from dreamerzero.agents import sequences
from dreamerzero.agents.sequences import Memory
from dreamerzero.nn import distributions
from dreamerzero.nn.heads import scalar
from dreamerzero.nn.networks import CONVS, MLP, STAGES
from dreamerzero.nn.normalisers import ReturnRange
from dreamerzero.nn.observations import is_picture
from dreamerzero.nn.optimisers import clip_by_tensor_norm, laprop, rising
from dreamerzero.planning import imagine
from dreamerzero.replay import sequence
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
from dreamerzero.worlds.rssm import ACTS, RSSM

CHOICES = {
    "latent": ("categorical", "gaussian"),
    "recurrence": tuple(ACTS),
    "actor_gradient": ("reinforce", "dynamics", "mix", "auto"),
    "optimiser": ("laprop", "adam"),
    "conv": CONVS,
}


@struct.dataclass
class State:
    """What learning carries. `params` has the parts `world`, `actor`, `critic` and `observation`,
    the running moments of vector observations."""

    params: dict[str, Any]
    slow_critic: Any
    optimiser: Any
    updates: jax.Array
    return_range: ReturnRange
    replay: sequence.SequenceReplay


@struct.dataclass
class Dreamer:
    """DreamerV3 with the paper's coefficients; only `xs` has rates of its own, for short runs.

    `dreamer-v1` and `dreamer-v2` are this agent with other values of its fields.
    """

    spec: EnvSpec = static()

    num_envs: int = static(16)
    """environments that run in parallel"""
    train_ratio: float = static(32.0)
    """replayed steps per step of the agent: more learns from less experience, at more compute"""
    batch_size: int = static(16)
    """sequences in a batch"""
    batch_length: int = static(64)
    """frames in a sequence"""
    capacity: int = static(1_000_000)
    """frames the replay holds, over all environments; the paper has five million"""
    imagination: int = static(15)
    """imagined steps from every replayed state"""

    deter: int = static(2048)
    """units of the recurrent state"""
    hidden: int = static(256)
    """units inside the recurrent model"""
    latent: str = static("categorical")
    """kind of latent variables: categorical or gaussian"""
    stoch: int = static(32)
    """latent variables"""
    classes: int = static(16)
    """classes of each categorical latent variable"""
    recurrence: str = static("block_gru")
    """block_gru, with RMSNorm and SiLU in all networks; or gru, with ELU in all but the encoder of
    small grids"""
    blocks: int = static(8)
    """blocks of the block-diagonal GRU"""
    units: int = static(256)
    """units of encoder, decoder, heads, actor and critic"""
    depth: int = static(16)
    """channels of the image encoder: itself in the first layer for small grids, a multiple of it in
    every stage for pictures"""
    conv: str = static("pool")
    """how pictures are halved and doubled: pool, or strided, which is cheaper"""
    bins: int = static(255)
    """classes of the reward and value distributions, odd; 1 for normals with squared errors"""
    bin_limit: float = static(20.0)
    """the outermost bins are ± symexp of this"""

    stored_latents: bool = static(True)
    """a replayed sequence goes on from the latent stored before it, not from an empty one"""
    actor_gradient: str = static("reinforce")
    """reinforce; dynamics, through the dream itself; mix, of both; or auto, which is reinforce for
    discrete and dynamics for continuous actions"""
    slow_target: bool = static(False)
    """returns are bootstrapped with the slow critic, not with the critic itself"""
    slow_every: int = static(1)
    """updates from one step of the slow critic to the next"""

    optimiser: str = static("laprop")
    """laprop, each tensor's gradient clipped by its own norm; or adam, for world, actor and critic
    apart, each one's gradient clipped as a whole"""
    learning_rate: float = 4e-5
    """after warm-up"""
    actor_rate: float = 1.0
    """learning rate of the actor, in multiples of `learning_rate`"""
    critic_rate: float = 1.0
    """learning rate of the critic, in multiples of `learning_rate`"""
    warmup: float = 1000.0
    """updates over which the learning rate rises to its value"""
    clip: float = 0.3
    """laprop: largest ratio of a tensor's gradient norm to its own; adam: largest norm"""
    horizon: float = 333.0
    """1 / (1 − γ), in steps"""
    lambda_: float = 0.95
    """mixing of the λ-return"""
    entropy: float = 3e-4
    """weight of the actor's entropy"""
    unimix: float = 0.01
    """uniform share of every categorical: prior, posterior and discrete actor"""
    mix: float = 0.1
    """share of reinforce if `actor_gradient` is mix"""
    free_nats: float = 1.0
    """KL below which the latent is left alone"""
    free_each: bool = static(True)
    """free nats for each state, not for their mean"""
    dyn_scale: float = 1.0
    """weight of the prior's KL loss"""
    rep_scale: float = 0.1
    """weight of the posterior's KL loss"""
    replay_value: float = 0.3
    """weight of the critic's loss on replayed returns"""
    slow_rate: float = 0.02
    """rate at which the slow critic follows"""
    slow_scale: float = 1.0
    """weight of staying close to the slow critic"""
    return_rate: float = 0.01
    """rate of the running return percentiles; at 0, returns are not normalised"""

    PRESETS: ClassVar[dict[str, dict]] = {
        "xs": {
            "num_envs": 8,
            "batch_length": 32,
            "capacity": 200_000,
            "deter": 128,
            "hidden": 64,
            "stoch": 8,
            "classes": 8,
            "units": 64,
            "depth": 8,
            "conv": "strided",
            "bins": 63,
            "bin_limit": 10.0,
            "train_ratio": 64.0,
            # Thousands of updates instead of millions: everything that follows, follows faster.
            "learning_rate": 1e-3,
            "warmup": 100.0,
            "slow_rate": 0.1,
            "slow_scale": 0.2,
            "return_rate": 0.05,
            # With the paper's 3e-4, seeds stop exploring before so small a world is learnt.
            "entropy": 3e-3,
            # Windows that begin with nothing known: episodes grow longer while so short a run
            # learns, and memory that reaches back to their beginning has not seen such lengths.
            "stored_latents": False,
        },
        "1m": {"deter": 512, "hidden": 64, "classes": 4, "depth": 4, "units": 64},
        "12m": {},
        "25m": {"deter": 3072, "hidden": 384, "classes": 24, "depth": 24, "units": 384},
        "50m": {"deter": 4096, "hidden": 512, "classes": 32, "depth": 32, "units": 512},
        "100m": {"deter": 6144, "hidden": 768, "classes": 48, "depth": 48, "units": 768},
        "200m": {"deter": 8192, "hidden": 1024, "classes": 64, "depth": 64, "units": 1024},
        "400m": {"deter": 12288, "hidden": 1536, "classes": 96, "depth": 96, "units": 1536},
    }

    fills_cpu: ClassVar[bool] = True  # see training.lanes

    @classmethod
    def default_preset(cls, backend: str) -> str:
        return "xs" if backend == "cpu" else "12m"

    def check(self):
        """Raises UsageError for what no run could make sense of."""
        sequences.check_sizes(self, "batch_length", "imagination", "slow_every")
        sequences.check_sizes(self, "deter", "hidden", "stoch")
        sequences.check(self, "dreamer")
        sequences.check_shares(self, "lambda_", "unimix", "mix", "slow_rate", "return_rate")
        sequences.check_positive(self, "horizon", "clip")
        sequences.check_not_negative(self, "learning_rate", "actor_rate", "critic_rate")
        sequences.check_choices(self, CHOICES)
        if self.recurrence == "block_gru":
            self._check_blocks()
        if self.latent == "categorical":
            sequences.check_sizes(self, "classes")
        if self.bins % 2 == 0 or self.bins < 1:
            raise UsageError(f"bins must be odd, so that one of them is zero; got {self.bins}.")

    def _check_blocks(self):
        sequences.check_sizes(self, "blocks")
        if self.deter % self.blocks:
            raise UsageError(f"deter ({self.deter}) must be a multiple of blocks ({self.blocks}).")
        if is_picture(self.spec.observation.shape) and STAGES[-1] * self.depth % self.blocks:
            raise UsageError(
                f"{STAGES[-1]} · depth ({self.depth}) must be a multiple of blocks ({self.blocks}) "
                "where pictures are decoded."
            )

    @property
    def world(self) -> RSSM:
        return RSSM(
            spec=self.spec,
            deter=self.deter,
            hidden=self.hidden,
            stoch=self.stoch,
            classes=self.classes,
            blocks=self.blocks,
            units=self.units,
            depth=self.depth,
            conv=self.conv,
            bins=self.bins,
            bin_limit=self.bin_limit,
            latent=self.latent,
            recurrence=self.recurrence,
            free_each=self.free_each,
            unimix=self.unimix,
            free_nats=self.free_nats,
            dyn_scale=self.dyn_scale,
            rep_scale=self.rep_scale,
            horizon=self.horizon,
        )

    @property
    def actor(self) -> MLP:
        outputs = distributions.num_outputs(self.spec.action)
        return MLP(3, self.units, outputs, output_scale=0.01, act=self.world.act)

    @property
    def critic(self) -> MLP:
        return MLP(3, self.units, self.bins, output_scale=0.0, act=self.world.act)

    @property
    def descent(self) -> optax.GradientTransformation:
        def of(rate):
            rate = rising(rate * self.learning_rate, self.warmup)
            if self.optimiser == "laprop":
                return optax.chain(clip_by_tensor_norm(self.clip), laprop(rate))
            return optax.chain(optax.clip_by_global_norm(self.clip), optax.adam(rate, eps=1e-5))

        parts = {"world": of(1.0), "actor": of(self.actor_rate), "critic": of(self.critic_rate)}
        return optax.partition(parts, {name: name for name in parts})

    @property
    def replayed_per_update(self) -> int:
        return self.batch_size * self.batch_length

    def init(self, key) -> State:
        world_key, actor_key, critic_key = jax.random.split(key, 3)
        features = self.world.initial(1).features
        params = {
            "world": self.world.init(world_key),
            "actor": self.actor.init(actor_key, features),
            "critic": self.critic.init(critic_key, features),
        }
        context = self._context(self.world.initial(self.num_envs))
        return State(
            params=params | sequences.moments(self.spec),
            # A copy: the same buffer twice in a state could not be donated.
            slow_critic=jax.tree.map(jnp.copy, params["critic"]),
            optimiser=self.descent.init(params),
            updates=jnp.zeros((), jnp.int32),
            return_range=ReturnRange.init(),
            replay=sequence.init(self.spec, self.num_envs, self.capacity, context),
        )

    def memory(self, batch_size: int) -> Memory:
        return sequences.memory(self.spec, self.world, batch_size)

    def act(self, params, key, timestep: TimeStep, memory, *, explore: bool) -> ActorOutput:
        latent_key, action_key = jax.random.split(key)
        latent = sequences.filter_in(self.spec, self.world, params, latent_key, timestep, memory)
        policy = self.policy(params, latent.features)
        action = policy.sample(seed=action_key) if explore else policy.mode()
        action = action.astype(self.spec.action.dtype)
        return ActorOutput(action, Memory(latent, action), self._context(latent))

    def observe(self, state: State, rollout: Rollout) -> State:
        return sequences.remember(self.spec, state, rollout)

    def learn(self, state: State, key) -> tuple[State, Metrics]:
        """One update of world, actor and critic on one batch of sequences."""
        sample_key, loss_key = jax.random.split(key)
        replay, batch = sequences.sample(self, state, sample_key)
        params = {name: state.params[name] for name in ("world", "actor", "critic")}
        (_, (latents, return_range, metrics)), grads = jax.value_and_grad(self.loss, has_aux=True)(
            params, state.slow_critic, state.return_range, batch, loss_key
        )
        descent, optimiser = self.descent.update(grads, state.optimiser, params)
        params = optax.apply_updates(params, descent)
        updates = state.updates + 1
        follow = jnp.where(updates % self.slow_every == 0, self.slow_rate, 0.0)
        slow_critic = optax.incremental_update(params["critic"], state.slow_critic, follow)
        metrics |= {f"grad_norm/{name}": optax.tree.norm(grads[name]) for name in grads}
        state = state.replace(
            params=state.params | params,
            slow_critic=slow_critic,
            optimiser=optimiser,
            updates=updates,
            return_range=return_range,
            replay=sequence.write_back(replay, batch.place, self._context(latents)),
        )
        return state, metrics

    def phases(self, steps: int) -> tuple[Phase, ...]:
        return sequences.phases(self, steps)

    def policy(self, params, features):
        """The distribution over actions at `features [..., F]`."""
        outputs = self.actor.apply(params["actor"], features)
        return distributions.policy(outputs, self.spec.action, self.unimix)

    def greedy(self, params, key, latent):
        """The likeliest actions `[B, ...]` at `latent`; no `key` is needed."""
        return self.policy(params, latent.features).mode().astype(self.spec.action.dtype)

    def value(self, params, latent):
        """The critic's mean `[...]` at `latent`: the discounted sum of the rewards to come."""
        return self._value(params["critic"], latent.features)

    def _value(self, critic, features):
        return scalar(self.bins, self.bin_limit).mean(self.critic.apply(critic, features))

    def loss(self, params, slow_critic, return_range, batch, key):
        """The whole loss on a batch, with its latents `[T, B, ...]`, the new return range and
        metrics."""
        world_key, dream_key = jax.random.split(key)
        frames = batch.frames
        world_loss, (latents, metrics) = self.world.loss(
            params["world"], world_key, frames, batch.memory.latent, batch.memory.action
        )
        head = scalar(self.bins, self.bin_limit)

        def value_loss(features, target):
            logits = self.critic.apply(params["critic"], features)
            slow = self._value(slow_critic, jax.lax.stop_gradient(features))
            return head.loss(logits, target) + self.slow_scale * head.loss(logits, slow)

        # Dream on from every replayed state. Only the actor and the critic learn from it. For
        # reinforce they see the dream as data; otherwise the actor's gradient runs back through it.
        frozen = jax.lax.stop_gradient(params)
        start = jax.tree.map(lambda x: jax.lax.stop_gradient(x).reshape(-1, *x.shape[2:]), latents)
        reinforce, dynamics = self._gradient_shares

        def act(key, latent):
            if dynamics is None:
                return self.policy(frozen, latent.features).sample(seed=key)
            policy = self.policy(params, jax.lax.stop_gradient(latent.features))
            return distributions.differentiable_sample(policy, key)

        dream, action, prediction = imagine(
            dream_key,
            act,
            lambda key, action, latent: self.world.step(frozen["world"], key, action, latent),
            start,
            self.imagination,
        )
        bootstrap = slow_critic if self.slow_target else frozen["critic"]
        v = self._value(bootstrap, dream.features)
        live_returns = _lambda_returns(prediction.reward, prediction.discount, v[1:], self.lambda_)
        features, v, returns, discount, action = jax.lax.stop_gradient(
            (dream.features, v, live_returns, prediction.discount, action)
        )
        return_range = return_range.update(returns, self.return_rate)
        # How likely the dream is still going on, so that nothing is learnt past its end.
        first = self.world.predict(frozen["world"], start).discount[None]
        weight = jnp.cumprod(jnp.concatenate([first, discount]), axis=0)[:-1]

        policy = self.policy(params, features[:-1])
        entropy = policy.entropy()
        objective = self.entropy * entropy
        if reinforce is not None:
            advantage = (returns - v[:-1]) / return_range.scale
            objective += reinforce * advantage * policy.log_prob(self._chosen(action))
        if dynamics is not None:
            objective += dynamics * live_returns / return_range.scale
        actor_loss = -jnp.mean(weight * objective)
        critic_loss = jnp.mean(weight * value_loss(features[:-1], returns))

        # The critic also learns from replayed rewards, with the dreams' returns as bootstrap, and
        # here its gradient shapes the world's latents.
        replayed_returns = _lambda_returns(
            frames.reward[1:],
            (1.0 - frames.is_terminal[1:]) * (1.0 - 1.0 / self.horizon),
            returns[0].reshape(frames.reward.shape)[1:],
            self.lambda_ * (1.0 - frames.is_last[1:]),
        )
        going_on = 1.0 - frames.is_last[:-1]
        replay_loss = jnp.mean(going_on * value_loss(latents.features[:-1], replayed_returns))

        loss = world_loss + actor_loss + critic_loss + self.replay_value * replay_loss
        metrics |= {
            "loss/actor": actor_loss,
            "loss/critic": critic_loss,
            "loss/replay_critic": replay_loss,
            "actor_entropy": entropy.mean(),
            "value": v.mean(),
            "imagined_return": returns.mean(),
            "imagined_reward": prediction.reward.mean(),
            "return_low": return_range.low,
            "return_high": return_range.high,
        }
        return loss, (latents, return_range, metrics)

    @property
    def _gradient_shares(self):
        """How much of REINFORCE and of the gradient through the dream the actor follows; None for
        one that is not computed at all."""
        discrete = isinstance(self.spec.action, Discrete)
        kind = self.actor_gradient
        kind = ("reinforce" if discrete else "dynamics") if kind == "auto" else kind
        shares = {"reinforce": (1.0, None), "dynamics": (None, 1.0)}
        return shares.get(kind, (self.mix, 1.0 - self.mix))

    def _chosen(self, action):
        """The class of an action that may be one-hot."""
        one_hot = isinstance(self.spec.action, Discrete) and action.ndim > 2
        return jnp.argmax(action, axis=-1) if one_hot else action

    def _context(self, latent):
        """What the replay keeps of `latent`."""
        return self.world.pack(latent) if self.stored_latents else None


def _lambda_returns(reward, discount, value, lambda_):
    """λ-returns of `[T, B]` arrays, with a scalar λ or one for each step."""
    lambda_t = jnp.broadcast_to(lambda_, reward.shape)
    return jax.vmap(ops.lambda_returns, 1, 1)(reward, discount, value, lambda_t)
