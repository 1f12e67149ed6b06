"""Dreamer v3: learn a world from replayed sequences, and behaviour inside its dreams.

Hafner et al. 2023, "Mastering Diverse Domains through World Models".

env → sequence replay → RSSM → imagination from every replayed state → actor, critic → env

  world      L = Σ recon + reward + continue + dyn + 0.1 rep                               (eq. 3)
  critic     two-hot cross-entropy of R^λ_t = r_t + γ c_t ((1−λ) v_t + λ R^λ_{t+1})      (eq. 4, 10)
  actor      − sg((R^λ − v) / max(1, S)) log π(a|s) − η H(π)                            (eq. 6, 7)

Before it in the lineage: PlaNet, the same world planned in at every step. After it: MuZero, whose
world predicts nothing but what search needs.
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
from dreamerzero.nn.networks import MLP
from dreamerzero.nn.normalisers import ReturnRange
from dreamerzero.nn.optimisers import clip_by_tensor_norm, laprop
from dreamerzero.planning import imagine
from dreamerzero.replay import sequence
from dreamerzero.types import (
    ActorOutput,
    EnvSpec,
    Metrics,
    Phase,
    Rollout,
    TimeStep,
    UsageError,
    static,
)
from dreamerzero.worlds.rssm import RSSM


@struct.dataclass
class State:
    """What learning carries. `params` has the parts `world`, `actor`, `critic` and `observation`,
    the running moments of vector observations."""

    params: dict[str, Any]
    slow_critic: Any
    optimiser: Any
    return_range: ReturnRange
    replay: sequence.SequenceReplay


@struct.dataclass
class Dreamer:
    """DreamerV3 with the paper's coefficients; only `xs` has rates of its own, for short runs."""

    spec: EnvSpec = static()

    num_envs: int = static(16)
    """environments that run in parallel"""
    train_ratio: float = static(32.0)
    """replayed steps per environment step: more learns from less experience, at more compute"""
    batch_size: int = static(16)
    """sequences in a batch"""
    batch_length: int = static(64)
    """frames in a sequence"""
    capacity: int = static(1_000_000)
    """frames the replay holds, over all environments"""
    imagination: int = static(15)
    """imagined steps from every replayed state"""

    deter: int = static(2048)
    """units of the recurrent state"""
    hidden: int = static(256)
    """units inside the recurrent model"""
    stoch: int = static(32)
    """categorical latent variables"""
    classes: int = static(16)
    """classes of each latent variable"""
    blocks: int = static(8)
    """blocks of the block-diagonal GRU"""
    units: int = static(256)
    """units of encoder, decoder, heads, actor and critic"""
    depth: int = static(16)
    """channels of the image encoder's first layer"""
    bins: int = static(255)
    """classes of the reward and value distributions, odd"""
    bin_limit: float = static(20.0)
    """the outermost bins are ± symexp of this"""

    learning_rate: float = 4e-5
    """of the one optimiser (LaProp), after warm-up"""
    warmup: float = 1000.0
    """updates over which the learning rate rises to its value"""
    clip: float = 0.3
    """adaptive gradient clipping: largest ratio of a tensor's gradient norm to its own"""
    horizon: float = 333.0
    """1 / (1 − γ), in steps"""
    lambda_: float = 0.95
    """mixing of the λ-return"""
    entropy: float = 3e-4
    """weight of the actor's entropy"""
    unimix: float = 0.01
    """uniform share of every categorical: prior, posterior and discrete actor"""
    free_nats: float = 1.0
    """KL below which the latent is left alone, for each state"""
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
    """rate of the running return percentiles"""

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
            "bins": 63,
            "bin_limit": 10.0,
            "train_ratio": 64.0,
            # Thousands of updates instead of millions: everything that follows, follows faster.
            "learning_rate": 1e-3,
            "warmup": 100.0,
            "slow_rate": 0.1,
            "slow_scale": 0.2,
            "return_rate": 0.05,
        },
        "1m": {"deter": 512, "hidden": 64, "classes": 4, "depth": 4, "units": 64},
        "12m": {},
    }

    fills_cpu: ClassVar[bool] = True  # see training.lanes

    @classmethod
    def default_preset(cls, backend: str) -> str:
        return "xs" if backend == "cpu" else "12m"

    def check(self):
        """Raises UsageError for what no run could make sense of."""
        sequences.check(self, "dreamer")
        if self.deter % self.blocks:
            raise UsageError(f"deter ({self.deter}) must be a multiple of blocks ({self.blocks}).")
        if self.bins % 2 == 0 or self.bins < 3:
            raise UsageError(f"bins must be odd, so that one of them is zero; got {self.bins}.")

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
            bins=self.bins,
            bin_limit=self.bin_limit,
            unimix=self.unimix,
            free_nats=self.free_nats,
            dyn_scale=self.dyn_scale,
            rep_scale=self.rep_scale,
            horizon=self.horizon,
        )

    @property
    def actor(self) -> MLP:
        return MLP(3, self.units, distributions.num_outputs(self.spec.action), output_scale=0.01)

    @property
    def critic(self) -> MLP:
        return MLP(3, self.units, self.bins, output_scale=0.0)

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return optax.chain(clip_by_tensor_norm(self.clip), laprop(self.learning_rate, self.warmup))

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
        return State(
            params=params | sequences.moments(self.spec),
            # A copy: the same buffer twice in a state could not be donated.
            slow_critic=jax.tree.map(jnp.copy, params["critic"]),
            optimiser=self.optimiser.init(params),
            return_range=ReturnRange.init(),
            replay=sequence.init(self.spec, self.num_envs, self.capacity),
        )

    def memory(self, batch_size: int) -> Memory:
        return sequences.memory(self.spec, self.world, batch_size)

    def act(self, params, key, timestep: TimeStep, memory, *, explore: bool) -> ActorOutput:
        latent_key, action_key = jax.random.split(key)
        latent = sequences.filter_in(self.spec, self.world, params, latent_key, timestep, memory)
        policy = self.policy(params, latent.features)
        action = policy.sample(seed=action_key) if explore else policy.mode()
        action = action.astype(self.spec.action.dtype)
        return ActorOutput(action, Memory(latent, action))

    def observe(self, state: State, rollout: Rollout) -> State:
        return sequences.remember(self.spec, state, rollout)

    def learn(self, state: State, key) -> tuple[State, Metrics]:
        """One update of world, actor and critic on one batch of sequences."""
        sample_key, loss_key = jax.random.split(key)
        batch = sequences.sample(self, state, sample_key)
        params = {name: state.params[name] for name in ("world", "actor", "critic")}
        (_, (return_range, metrics)), grads = jax.value_and_grad(self.loss, has_aux=True)(
            params, state.slow_critic, state.return_range, batch, loss_key
        )
        updates, optimiser = self.optimiser.update(grads, state.optimiser, params)
        params = optax.apply_updates(params, updates)
        slow_critic = optax.incremental_update(params["critic"], state.slow_critic, self.slow_rate)
        metrics["grad_norm"] = optax.tree.norm(grads)
        state = state.replace(
            params=state.params | params,
            slow_critic=slow_critic,
            optimiser=optimiser,
            return_range=return_range,
        )
        return state, metrics

    def phases(self, steps: int) -> tuple[Phase, ...]:
        return sequences.phases(self, steps)

    def policy(self, params, features):
        """The distribution over actions at `features [..., F]`."""
        outputs = self.actor.apply(params["actor"], features)
        return distributions.policy(outputs, self.spec.action, self.unimix)

    def loss(self, params, slow_critic, return_range, batch, key):
        """The whole loss on frames `[T, B, ...]`, with the new return range and metrics."""
        world_key, dream_key = jax.random.split(key)
        world_loss, (latents, metrics) = self.world.loss(params["world"], world_key, batch)
        head = scalar(self.bins, self.bin_limit)

        def value(critic, features):
            return head.mean(self.critic.apply(critic, features))

        def value_loss(features, target):
            logits = self.critic.apply(params["critic"], features)
            slow = value(slow_critic, jax.lax.stop_gradient(features))
            return head.loss(logits, target) + self.slow_scale * head.loss(logits, slow)

        # Dream on from every replayed state. Only the actor and the critic learn from it, so the
        # gradient stops here; they see the dream as data.
        frozen = jax.lax.stop_gradient(params)
        start = jax.tree.map(lambda x: jax.lax.stop_gradient(x).reshape(-1, *x.shape[2:]), latents)
        dream, action, prediction = imagine(
            dream_key,
            lambda key, latent: self.policy(frozen, latent.features).sample(seed=key),
            lambda key, action, latent: self.world.step(frozen["world"], key, action, latent),
            start,
            self.imagination,
        )
        features = dream.features
        v = value(frozen["critic"], features)
        returns = _lambda_returns(prediction.reward, prediction.discount, v[1:], self.lambda_)
        return_range = return_range.update(returns, self.return_rate)
        # How likely the dream is still going on, so that nothing is learnt past its end.
        first = self.world.predict(frozen["world"], start).discount[None]
        weight = jnp.cumprod(jnp.concatenate([first, prediction.discount]), axis=0)[:-1]

        policy = self.policy(params, features[:-1])
        advantage = (returns - v[:-1]) / return_range.scale
        log_prob, entropy = policy.log_prob(action), policy.entropy()
        actor_loss = -jnp.mean(weight * (advantage * log_prob + self.entropy * entropy))
        critic_loss = jnp.mean(weight * value_loss(features[:-1], returns))

        # The critic also learns from replayed rewards, with the dreams' returns as bootstrap, and
        # here its gradient shapes the world's latents.
        replayed_returns = _lambda_returns(
            batch.reward[1:],
            (1.0 - batch.is_terminal[1:]) * (1.0 - 1.0 / self.horizon),
            returns[0].reshape(batch.reward.shape)[1:],
            self.lambda_ * (1.0 - batch.is_last[1:]),
        )
        going_on = 1.0 - batch.is_last[:-1]
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
            "return_scale": return_range.scale,
        }
        return loss, (return_range, metrics)


def _lambda_returns(reward, discount, value, lambda_):
    """λ-returns of `[T, B]` arrays, with a scalar λ or one for each step."""
    lambda_t = jnp.broadcast_to(lambda_, reward.shape)
    return jax.vmap(ops.lambda_returns, 1, 1)(reward, discount, value, lambda_t)
