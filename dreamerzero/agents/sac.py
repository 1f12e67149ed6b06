"""SAC: act as randomly as good actions allow, and learn it from a replay, without a model.

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications".

env → replay → twin critics → squashed-normal actor → env

  critics      Q_j(s, a) → r + γ (1 − end) [min_i Q̄_i(s′, a′) − α log π(a′|s′)]      (eq. 5, 6)
  actor        min E[α log π(a|s) − min_j Q_j(s, a)],  a ~ π(s) by its noise              (eq. 9)
  temperature  min E[−α log π(a|s) − α H̄]: α rises while the entropy is below H̄         (eq. 18)

A yardstick for continuous actions. Before it in the lineage: DQN's replay and bootstrap, here with
an actor in place of the maximum. After it: MBPO, which gives the same `update` batches that a
learnt world imagined.

Different from the paper: networks normalise their layers and inputs; a run begins with the
untrained actor, whose actions are spread widely, not with uniform ones; three losses, one step.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from dreamerzero.agents import sequences
from dreamerzero.nn import distributions
from dreamerzero.nn.networks import MLP, Encoder, EncoderMLP
from dreamerzero.replay import ring
from dreamerzero.types import (
    ActorOutput,
    Box,
    Discrete,
    EnvSpec,
    Metrics,
    Phase,
    Rollout,
    TimeStep,
    Transition,
    UsageError,
    static,
)

LEARNT = ("actor", "critic", "temperature")
"""The parts of params that gradients change."""


@struct.dataclass
class State:
    """What learning carries. `params` has the parts `actor`; `critic`, both of them in one tree of
    leaves `[2, ...]`; `temperature`, log α; and `observation`, the running moments of vector
    observations."""

    params: dict[str, Any]
    slow_critic: Any
    optimiser: Any
    replay: ring.Ring


@struct.dataclass
class SAC:
    """Soft actor-critic with the paper's sizes; `xs` has smaller ones that learn faster."""

    spec: EnvSpec = static()

    num_envs: int = static(1)
    """environments that run in parallel"""
    train_ratio: float = static(256.0)
    """replayed steps per step of the agent: more learns from less experience, at more compute"""
    batch_size: int = static(256)
    """transitions in a batch"""
    capacity: int = static(1_000_000)
    """transitions the replay holds"""
    prefill: int = static(5_000)
    """steps before the first update"""

    layers: int = static(2)
    """hidden layers of actor and critics"""
    units: int = static(256)
    """units of a hidden layer"""
    depth: int = static(16)
    """channels of the image encoder: itself in the first layer for small grids, a multiple of it in
    every stage for pictures"""

    discount: float = 0.99
    """γ"""
    slow_rate: float = 0.005
    """rate at which the slow critics follow"""
    learning_rate: float = 3e-4
    """of Adam"""
    temperature: float = 1.0
    """α at first; then it is learnt"""
    target_entropy: float = -1.0
    """entropy that the temperature aims at, for each number of an action"""

    PRESETS: ClassVar[dict[str, dict]] = {
        "xs": {
            "batch_size": 128,
            "train_ratio": 128.0,
            "capacity": 200_000,
            "prefill": 1_000,
            "units": 64,
            "slow_rate": 0.01,
            "learning_rate": 1e-3,
        },
        "paper": {},
    }

    fills_cpu: ClassVar[str] = "in loops"  # see training.lanes

    @classmethod
    def default_preset(cls, backend: str) -> str:
        return "xs" if backend == "cpu" else "paper"

    def check(self):
        """Raises UsageError for what no run could make sense of."""
        name = type(self).__name__.lower()
        if isinstance(self.spec.action, Discrete):
            raise UsageError(
                f"{name} wants continuous actions; those of {self.spec.name} are discrete. "
                "Try dqn or ppo there."
            )
        sequences.check_replay(self)
        sequences.check_positive(self, "temperature")
        sequences.check_not_negative(self, "learning_rate")
        sequences.check_shares(self, "discount", "slow_rate")
        sequences.check_networks(self, name)

    @property
    def actor(self) -> EncoderMLP:
        # At first nearly the same broad distribution everywhere.
        outputs = distributions.num_outputs(self.spec.action)
        return EncoderMLP(self.spec.observation, outputs, 0.01, *self._sizes)

    @property
    def critic(self) -> Critic:
        return Critic(self.spec.observation, *self._sizes)

    @property
    def _sizes(self) -> tuple[int, int, int]:
        return self.layers, self.units, self.depth

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)

    @property
    def replayed_per_update(self) -> int:
        return self.batch_size

    def init(self, key) -> State:
        actor_key, critic_key = jax.random.split(key)
        one = Transition.example(self.spec)
        observation, action = one.observation[None], one.action[None]
        twins = jax.vmap(self.critic.init, (0, None, None))
        learnt = {
            "actor": self.actor.init(actor_key, observation),
            "critic": twins(jax.random.split(critic_key), observation, action),
            "temperature": jnp.log(self.temperature),
        }
        return State(
            params=learnt | sequences.moments(self.spec),
            slow_critic=jax.tree.map(jnp.copy, learnt["critic"]),
            optimiser=self.optimiser.init(learnt),
            replay=ring.init(one, self.capacity),
        )

    def memory(self, batch_size: int) -> tuple:
        return ()

    def act(self, params, key, timestep: TimeStep, memory, *, explore: bool) -> ActorOutput:
        if explore:
            return ActorOutput(self.policy(params, timestep.observation).sample(seed=key), memory)
        outputs = self._outputs(params, timestep.observation)
        return ActorOutput(distributions.squashed_middle(outputs), memory)

    def policy(self, params, observation):
        """The distribution of actions `[B, A]` for observations as the environment shows them."""
        return distributions.squashed(self._outputs(params, observation))

    def _outputs(self, params, observation):
        return self.actor.apply(params["actor"], sequences.see(self.spec, params, observation))

    def observe(self, state: State, rollout: Rollout) -> State:
        params = sequences.take_in(self.spec, state.params, rollout.next_timestep.observation)
        replay = ring.add(state.replay, Transition.each(rollout))
        return state.replace(params=params, replay=replay)

    def learn(self, state: State, key) -> tuple[State, Metrics]:
        """One update on one batch of the replay."""
        sample_key, update_key = jax.random.split(key)
        return self.update(
            state, update_key, ring.sample(state.replay, sample_key, self.batch_size)
        )

    def update(self, state, key, batch: Transition):
        """One update of critics, actor and temperature on transitions `[B]`, wherever they come
        from, in the environment's own units.

        Args:
          state: anything with `params`, `slow_critic` and `optimiser`.
        Returns:
          It with these three renewed, and metrics.
        """
        learnt = {name: state.params[name] for name in LEARNT}
        batch = batch.replace(
            observation=sequences.see(self.spec, state.params, batch.observation),
            next_observation=sequences.see(self.spec, state.params, batch.next_observation),
        )
        (_, metrics), grads = jax.value_and_grad(self.loss, has_aux=True)(
            learnt, state.slow_critic, key, batch
        )
        descent, optimiser = self.optimiser.update(grads, state.optimiser, learnt)
        learnt = optax.apply_updates(learnt, descent)
        slow = optax.incremental_update(learnt["critic"], state.slow_critic, self.slow_rate)
        metrics |= {f"grad_norm/{name}": optax.tree.norm(grads[name]) for name in LEARNT}
        params = state.params | learnt
        return state.replace(params=params, slow_critic=slow, optimiser=optimiser), metrics

    def loss(self, learnt, slow_critic, key, batch: Transition):
        """The three losses together: each changes its own part alone.

        Args:
          batch: `[B]`, as the networks see it.
        Returns:
          A scalar, and metrics.
        """
        next_key, action_key = jax.random.split(key)
        still = jax.lax.stop_gradient(learnt)
        alpha = jnp.exp(learnt["temperature"])

        target = self.target(still, slow_critic, next_key, batch)
        value = self.values(learnt["critic"], batch.observation, batch.action)
        critic = 0.5 * jnp.mean(jnp.sum(jnp.square(value - target), axis=0))

        action, log_prob = self._draw(learnt["actor"], action_key, batch.observation)
        worth = self.values(still["critic"], batch.observation, action).min(axis=0)
        actor = jnp.mean(jnp.exp(still["temperature"]) * log_prob - worth)

        entropy = -jnp.mean(jax.lax.stop_gradient(log_prob))
        temperature = alpha * (entropy - self.target_entropy * self.spec.action.shape[0])

        losses = {"critic": critic, "actor": actor, "temperature": temperature}
        metrics = {f"loss/{name}": loss for name, loss in losses.items()}
        metrics |= {"value": value.mean(), "policy_entropy": entropy, "temperature": alpha}
        return sum(losses.values()), metrics

    def target(self, params, slow_critic, key, batch: Transition):
        """What the critics should say of each transition, `[B]`."""
        action, log_prob = self._draw(params["actor"], key, batch.next_observation)
        value = self.values(slow_critic, batch.next_observation, action).min(axis=0)
        value -= jnp.exp(params["temperature"]) * log_prob
        # An imagined state in which it is over need not be finite.
        return batch.reward + self.discount * jnp.where(batch.terminated, 0.0, value)

    def values(self, critic, observation, action):
        """Both critics' values `[2, B]` of actions `[B, A]`."""
        return jax.vmap(self.critic.apply, (0, None, None))(critic, observation, action)

    def _draw(self, actor, key, observation):
        """Actions `[B, A]`, with gradients to the actor, and their log-probabilities `[B]`."""
        policy = distributions.squashed(self.actor.apply(actor, observation))
        return policy.sample_and_log_prob(seed=key)

    def phases(self, steps: int) -> tuple[Phase, ...]:
        return sequences.phases(self, steps, -(-self.prefill // self.num_envs))


class Critic(nn.Module):
    """Q(s, a), `[B]`."""

    observation: Box | Discrete
    layers: int
    units: int
    depth: int

    @nn.compact
    def __call__(self, observation, action):
        tokens = Encoder(self.observation, self.depth)(observation)
        both = jnp.concatenate([tokens, action], axis=-1)
        # Small differences between large values decide: never in bfloat16.
        return MLP(self.layers, self.units, 1, dtype=jnp.float32)(both)[..., 0]
