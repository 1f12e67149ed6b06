"""PPO: improve the policy by what it just did, but only a little at a time.

Schulman et al. 2017, "Proximal Policy Optimization Algorithms".

env → one rollout → advantages → a few epochs of clipped policy gradient → env; and forget

  advantage  A_t = δ_t + γλ A_{t+1},  δ_t = r_t + γ (1 − end) v(s′_t) − v(s_t)  (eq. 11, 12)
  actor      max E[min(ρ A, clip(ρ, 1 − ε, 1 + ε) A)],  ρ = π(a|s) / π_old(a|s)         (eq. 7)
  critic     v(s_t) → A_t + v(s_t)
  loss       −actor + c₁ critic − c₂ entropy                                           (eq. 9)

A yardstick for any actions. It stands beside the lineage: it remembers nothing, so it says what
remembering is worth. After it: Dreamer, whose actor and critic learn from rollouts that its world
dreams.

Different from the paper: two networks, and layers and inputs are normalised; the critic's
targets are in units of their own spread; advantages are normalised in every minibatch; where an
episode was cut off, the value of its final observation goes on in its stead.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dreamerzero import ops
from dreamerzero.agents import sequences
from dreamerzero.nn import distributions
from dreamerzero.nn.networks import EncoderMLP
from dreamerzero.nn.normalisers import RunningMoments
from dreamerzero.nn.optimisers import falling
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

LEARNT = ("actor", "critic")
"""The parts of params that gradients change."""


@struct.dataclass
class Experience:
    """A rollout as it is learnt from, leaves `[T, B, ...]`."""

    steps: Transition
    is_last: jax.Array


@struct.dataclass
class Lesson:
    """What can be learnt from states and actions, leaves `[N, ...]`."""

    observation: jax.Array  # as the networks see it
    action: jax.Array
    log_prob: jax.Array  # under the policy that acted
    advantage: jax.Array
    value: jax.Array  # the critic's target, in units of its own spread


@struct.dataclass
class State:
    """What learning carries. `params` has the parts `actor` and `critic`; `value`, the running
    moments of its targets; and `observation`, those of vector observations."""

    params: dict[str, Any]
    optimiser: Any
    experience: Experience


@struct.dataclass
class PPO:
    """Proximal policy optimisation with sizes for problems of a few numbers."""

    spec: EnvSpec = static()

    num_envs: int = static(16)
    """environments that run in parallel"""
    rollout: int = static(64)
    """steps in each environment between two calls of `learn`"""
    epochs: int = static(4)
    """times that a rollout is learnt from"""
    minibatches: int = static(4)
    """updates in an epoch, each on its share of the rollout"""

    layers: int = static(2)
    """hidden layers of actor and critic"""
    units: int = static(64)
    """units of a hidden layer"""
    depth: int = static(16)
    """channels of the image encoder: itself in the first layer for small grids, a multiple of it in
    every stage for pictures"""

    discount: float = 0.99
    """γ"""
    lambda_: float = 0.95
    """λ of the advantages"""
    clip_ratio: float = 0.2
    """ε: how far from 1 the ratio of new to old probabilities is still rewarded"""
    entropy: float = 0.01
    """weight of the policy's entropy"""
    value_scale: float = 0.5
    """weight of the value's loss"""
    learning_rate: float = 1e-3
    """of Adam, at first"""
    falling: float = 1000.0
    """updates after which the learning rate has fallen to 1/√2, then slower and slower"""
    clip: float = 0.5
    """largest norm of the gradient"""

    PRESETS: ClassVar[dict[str, dict]] = {"default": {}}

    @classmethod
    def default_preset(cls, backend: str) -> str:
        return "default"

    def check(self):
        """Raises UsageError for what no run could make sense of."""
        sequences.check_networks(self, "ppo")
        sequences.check_sizes(self, "num_envs", "rollout", "epochs", "minibatches", "layers")
        sequences.check_shares(self, "discount", "lambda_")
        sequences.check_positive(self, "clip_ratio", "falling", "clip")
        sequences.check_not_negative(self, "learning_rate")
        size = self.rollout * self.num_envs
        if size % self.minibatches:
            raise UsageError(
                f"rollout · num_envs ({size}) must be a multiple of minibatches "
                f"({self.minibatches})."
            )

    @property
    def actor(self) -> EncoderMLP:
        return self._network(distributions.num_outputs(self.spec.action), 0.01)

    @property
    def critic(self) -> EncoderMLP:
        return self._network(1, 0.0)

    def _network(self, outputs: int, scale: float) -> EncoderMLP:
        sizes = self.layers, self.units, self.depth
        return EncoderMLP(self.spec.observation, outputs, scale, *sizes)

    @property
    def optimiser(self) -> optax.GradientTransformation:
        rate = falling(self.learning_rate, self.falling)
        return optax.chain(optax.clip_by_global_norm(self.clip), optax.adam(rate, eps=1e-5))

    @property
    def replayed_per_update(self) -> int:
        return self.epochs * self.rollout * self.num_envs

    def init(self, key) -> State:
        actor_key, critic_key = jax.random.split(key)
        one = Transition.example(self.spec)
        learnt = {
            "actor": self.actor.init(actor_key, one.observation[None]),
            "critic": self.critic.init(critic_key, one.observation[None]),
        }
        experience = Experience(one, jnp.bool_(False))
        return State(
            params=learnt | {"value": RunningMoments.init(())} | sequences.moments(self.spec),
            optimiser=self.optimiser.init(learnt),
            experience=jax.tree.map(
                lambda leaf: jnp.zeros((self.rollout, self.num_envs, *leaf.shape), leaf.dtype),
                experience,
            ),
        )

    def memory(self, batch_size: int) -> tuple:
        return ()

    def act(self, params, key, timestep: TimeStep, memory, *, explore: bool) -> ActorOutput:
        observation = sequences.see(self.spec, params, timestep.observation)
        policy = self.policy(params, observation)
        action = policy.sample(seed=key) if explore else policy.mode()
        return ActorOutput(action.astype(self.spec.action.dtype), memory)

    def policy(self, params, observation):
        """The distribution over actions in observations `[..., *shape]`."""
        outputs = self.actor.apply(params["actor"], observation)
        return distributions.policy(outputs, self.spec.action, 0.0)

    def value(self, params, observation):
        """Values `[...]` in the reward's own units."""
        return params["value"].denormalise(self.critic.apply(params["critic"], observation)[..., 0])

    def observe(self, state: State, rollout: Rollout) -> State:
        experience = Experience(Transition.of(rollout), rollout.next_timestep.is_last)
        return state.replace(experience=experience)

    def learn(self, state: State, key) -> tuple[State, Metrics]:
        """A few epochs on the last rollout."""
        params, lesson = self.lesson(state.params, state.experience)
        learnt = {name: params[name] for name in LEARNT}

        def step(carry, lesson):
            learnt, optimiser = carry
            (_, metrics), grads = jax.value_and_grad(self.loss, has_aux=True)(learnt, lesson)
            descent, optimiser = self.optimiser.update(grads, optimiser, learnt)
            metrics["grad_norm"] = optax.tree.norm(grads)
            return (optax.apply_updates(learnt, descent), optimiser), metrics

        def epoch(carry, key):
            order = jax.random.permutation(key, lesson.value.size).reshape(self.minibatches, -1)
            return jax.lax.scan(
                lambda carry, part: step(carry, jax.tree.map(lambda leaf: leaf[part], lesson)),
                carry,
                order,
            )

        keys = jax.random.split(key, self.epochs)
        (learnt, optimiser), metrics = jax.lax.scan(epoch, (learnt, state.optimiser), keys)
        # Only now: the ratios compare with the policy that acted, which saw in the old units.
        seen = state.experience.steps.next_observation
        params = sequences.take_in(self.spec, params | learnt, seen)
        metrics = jax.tree.map(jnp.mean, metrics)
        return state.replace(params=params, optimiser=optimiser), metrics

    def lesson(self, params, experience: Experience):
        """Advantages and value targets of all steps; and params, with the targets taken in."""
        steps = experience.steps
        before = sequences.see(self.spec, params, steps.observation)
        after = sequences.see(self.spec, params, steps.next_observation)
        value = self.value(params, before)
        advantage = jax.vmap(ops.gae, in_axes=1, out_axes=1)(
            steps.reward,
            self.discount * (1.0 - steps.terminated),
            value,
            self.value(params, after),
            self.lambda_ * (1.0 - experience.is_last),
        )
        returns = advantage + value
        moments = params["value"].update(returns)
        lesson = Lesson(
            observation=before,
            action=steps.action,
            log_prob=self.policy(params, before).log_prob(steps.action),
            advantage=advantage,
            value=moments.normalise(returns),
        )
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), lesson)
        return params | {"value": moments}, flat

    def loss(self, learnt, lesson: Lesson):
        """The loss of eq. 9 on a minibatch, and metrics."""
        policy = self.policy(learnt, lesson.observation)
        log_ratio = policy.log_prob(lesson.action) - lesson.log_prob
        advantage = lesson.advantage - lesson.advantage.mean()
        advantage /= lesson.advantage.std() + 1e-8
        actor = clipped_objective(jnp.exp(log_ratio), advantage, self.clip_ratio).mean()
        value = self.critic.apply(learnt["critic"], lesson.observation)[..., 0]
        critic = 0.5 * jnp.mean(jnp.square(value - lesson.value))
        entropy = policy.entropy().mean()
        metrics = {
            "loss/actor": -actor,
            "loss/critic": critic,
            "policy_entropy": entropy,
            # How far the policy has gone, and how often the clipping holds it back.
            "kl": jnp.mean(jnp.expm1(log_ratio) - log_ratio),
            "clipped": jnp.mean(jnp.abs(jnp.expm1(log_ratio)) > self.clip_ratio),
        }
        return self.value_scale * critic - actor - self.entropy * entropy, metrics

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """Collect and learn in turn."""
        iterations = steps // (self.rollout * self.num_envs)
        if not iterations:
            raise UsageError(
                f"A rollout takes {self.rollout * self.num_envs} steps for each repeat of an "
                f"action; got {steps}."
            )
        return (Phase("train", iterations, self.rollout),)


def clipped_objective(ratio, advantage, clip_ratio):
    """min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) (eq. 7), for arrays of any one shape."""
    clipped = jnp.clip(ratio, 1.0 - clip_ratio, 1.0 + clip_ratio)
    return jnp.minimum(ratio * advantage, clipped * advantage)
