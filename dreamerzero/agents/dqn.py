"""DQN: learn the values of actions from a replay, and take the best; with the parts of Rainbow.

Mnih et al. 2015, "Human-level control through deep reinforcement learning"; Hessel et al. 2018,
"Rainbow: Combining Improvements in Deep Reinforcement Learning".

env → replay of streams → Q-network → ε-greedy → env

  target   R + Γ Q̄(s_m, argmax_a Q(s_m, a)),  R = r_1 + … + γᵐ⁻¹ r_m,  Γ = γᵐ (1 − end)
           m = n, or less where an episode ends or is cut off before
  loss     ½ (Q(s, a) − target)², weighted by the replay; Q̄ follows Q slowly

and its parts, each a field:
  double          `double`: Q̄ alone chooses and judges if not           (van Hasselt et al. 2016)
  dueling         `dueling`: Q = v + advantage − its mean over actions        (Wang et al. 2016)
  n-step          `n_step`                                       (Sutton & Barto 2018, ch. 7)
  prioritised     `priority`: the exponent of errors in the replay's draws  (Schaul et al. 2016)
  distributional  `atoms`: the return's distribution over so many   (C51, Bellemare et al. 2017)

A yardstick for discrete actions. Before it in the lineage: Dyna, which replays from a table. After
it: MuZero, which searches among such values, and SAC, for continuous actions.

Different from the papers: noisy networks, Rainbow's sixth part, are left out; errors are squared,
not clipped, for the few large ones are those at ends; the target network follows at every update,
and is the one that plays without exploration; layers and vector inputs are normalised.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from dreamerzero import ops
from dreamerzero.agents import sequences
from dreamerzero.nn.networks import MLP, Encoder
from dreamerzero.nn.optimisers import falling
from dreamerzero.replay import windows
from dreamerzero.replay.sequence import Frame
from dreamerzero.types import (
    ActorOutput,
    Box,
    Discrete,
    EnvSpec,
    Metrics,
    Phase,
    Rollout,
    TimeStep,
    UsageError,
    static,
)


@struct.dataclass
class State:
    """What learning carries. `params` has the parts `q`; `slow`, which follows it; `observation`,
    the running moments of vector observations; and `steps` taken, on which ε depends."""

    params: dict[str, Any]
    optimiser: Any
    replay: windows.Windows


class Lesson(NamedTuple):
    """n steps of B windows at once, in the symbols of the file's docstring."""

    observation: jax.Array  # s, [B, ...]
    action: jax.Array
    reward: jax.Array  # R, [B]
    discount: jax.Array  # Γ, [B]
    next_observation: jax.Array  # s_m
    real: jax.Array  # [B], 0 where an episode had already ended: there was no step


@struct.dataclass
class DQN:
    """DQN with the parts of Rainbow but for noisy networks; `plain` has fewer."""

    spec: EnvSpec = static()

    num_envs: int = static(8)
    """environments that run in parallel"""
    train_ratio: float = static(16.0)
    """replayed steps per step of the agent: more learns from less experience, at more compute"""
    batch_size: int = static(64)
    """transitions in a batch"""
    capacity: int = static(100_000)
    """frames the replay holds, over all environments"""
    prefill: int = static(1_000)
    """steps before the first update"""

    double: bool = static(True)
    """whether the network chooses the action whose value the slow one gives"""
    dueling: bool = static(True)
    """whether value and advantages have layers of their own"""
    n_step: int = static(5)
    """rewards in a target before it is bootstrapped"""
    atoms: int = static(51)
    """atoms of the return's distribution, from v_min to v_max; 1 learns only its mean"""

    layers: int = static(2)
    """hidden layers"""
    units: int = static(64)
    """units of a hidden layer"""
    depth: int = static(16)
    """channels of the image encoder: itself in the first layer for small grids, a multiple of it in
    every stage for pictures"""

    discount: float = 0.99
    """γ"""
    v_min: float = -100.0
    """the least return that atoms can tell: −1 / (1 − γ) for rewards from −1 on"""
    v_max: float = 100.0
    """the largest return that atoms can tell: 1 / (1 − γ) for rewards up to 1"""
    epsilon: float = 0.05
    """probability of a random action, after it has fallen from 1"""
    exploration: float = 10_000.0
    """steps in which it falls so far, linearly"""
    priority: float = 0.5
    """how much more often steps are replayed that were surprising: the exponent α of their error; 0
    is uniform"""
    correction: float = 0.4
    """how much of that bias is corrected in the loss: the exponent β"""
    slow_rate: float = 0.01
    """rate at which the slow network follows"""
    learning_rate: float = 1e-3
    """of Adam, at first"""
    falling: float = 2000.0
    """updates after which the learning rate has fallen to 1/√2, then slower and slower"""
    clip: float = 10.0
    """largest norm of the gradient"""

    PRESETS: ClassVar[dict[str, dict]] = {
        "default": {},
        # Double DQN with n-step returns, as a control of the other parts.
        "plain": {"dueling": False, "atoms": 1, "priority": 0.0},
    }

    @classmethod
    def default_preset(cls, backend: str) -> str:
        return "default"

    def check(self):
        """Raises UsageError for what no run could make sense of."""
        if not isinstance(self.spec.action, Discrete):
            raise UsageError(
                f"dqn wants discrete actions; those of {self.spec.name} are continuous. "
                "Try sac or ppo there."
            )
        sequences.check_sizes(self, "n_step", "atoms", "layers")
        sequences.check_order(self, "v_min", "v_max")
        sequences.check(self, "dqn")
        sequences.check_shares(self, "discount", "epsilon", "slow_rate")
        sequences.check_positive(self, "exploration", "falling", "clip")
        sequences.check_not_negative(self, "learning_rate", "priority", "correction")

    @property
    def net(self) -> QNetwork:
        return QNetwork(
            self.spec.observation,
            self.spec.action.num,
            self.atoms,
            self.dueling,
            self.layers,
            self.units,
            self.depth,
        )

    @property
    def bins(self):
        """The returns `[atoms]` that the atoms stand for."""
        return jnp.linspace(self.v_min, self.v_max, self.atoms)

    @property
    def optimiser(self) -> optax.GradientTransformation:
        rate = falling(self.learning_rate, self.falling)
        return optax.chain(optax.clip_by_global_norm(self.clip), optax.adam(rate, eps=1e-5))

    @property
    def batch_length(self) -> int:
        """Frames of a window."""
        return self.n_step + 1

    @property
    def replayed_per_update(self) -> int:
        return self.batch_size

    def init(self, key) -> State:
        space = self.spec.observation
        q = self.net.init(key, jnp.zeros((1, *space.shape), space.dtype))
        params = {"q": q, "slow": jax.tree.map(jnp.copy, q), "steps": jnp.int32(0)}
        return State(
            params=params | sequences.moments(self.spec),
            optimiser=self.optimiser.init(q),
            replay=windows.init(self.spec, self.num_envs, self.capacity, self.batch_length),
        )

    def memory(self, batch_size: int) -> tuple:
        return ()

    def act(self, params, key, timestep: TimeStep, memory, *, explore: bool) -> ActorOutput:
        observation = sequences.see(self.spec, params, timestep.observation)
        q = self.values(self.net.apply(params["q" if explore else "slow"], observation))
        action = jnp.argmax(q, axis=-1).astype(jnp.int32)
        if explore:
            coin_key, any_key = jax.random.split(key)
            fallen = jnp.minimum(1.0, params["steps"] / self.exploration)
            coin = jax.random.bernoulli(coin_key, 1.0 + fallen * (self.epsilon - 1.0), action.shape)
            anything = jax.random.randint(any_key, action.shape, 0, self.spec.action.num)
            action = jnp.where(coin, anything, action)
        return ActorOutput(action, memory)

    def values(self, outputs):
        """Action values `[..., A]` of what the network says, `[..., A, atoms]`."""
        if self.atoms == 1:
            return outputs[..., 0]
        return jnp.sum(jax.nn.softmax(outputs) * self.bins, axis=-1)

    def observe(self, state: State, rollout: Rollout) -> State:
        params = sequences.take_in(self.spec, state.params, rollout.next_timestep.observation)
        params = params | {"steps": params["steps"] + rollout.action.size}
        return state.replace(params=params, replay=windows.add(state.replay, rollout))

    def learn(self, state: State, key) -> tuple[State, Metrics]:
        """One update on one batch of windows."""
        params, q = state.params, state.params["q"]
        frames, place, weight = windows.sample(state.replay, key, self.batch_size, self.correction)
        observation = sequences.see(self.spec, params, frames.observation)
        lesson = n_step(frames.replace(observation=observation), self.discount)
        (_, (error, metrics)), grads = jax.value_and_grad(self.loss, has_aux=True)(
            q, params["slow"], lesson, weight
        )
        descent, optimiser = self.optimiser.update(grads, state.optimiser, q)
        q = optax.apply_updates(q, descent)
        slow = optax.incremental_update(q, params["slow"], self.slow_rate)
        metrics["grad_norm"] = optax.tree.norm(grads)
        state = state.replace(
            params=params | {"q": q, "slow": slow},
            optimiser=optimiser,
            replay=windows.update(state.replay, place, error + 1e-3, self.priority),
        )
        return state, metrics

    def loss(self, q, slow, lesson: Lesson, weight):
        """The mean loss of windows `[B]`, and their errors `[B]` with metrics."""
        target = jax.lax.stop_gradient(self.target(q, slow, lesson))
        taken = _pick(self.net.apply(q, lesson.observation), lesson.action)
        if self.atoms == 1:
            value = taken[..., 0]
            error = jnp.abs(value - target)
            loss = 0.5 * jnp.square(error)
        else:
            value = self.values(taken)
            loss = optax.losses.kl_divergence(jax.nn.log_softmax(taken), target)
            error = loss
        loss = jnp.mean(weight * lesson.real * loss)
        return loss, (lesson.real * error, {"loss": loss, "value": value.mean()})

    def target(self, q, slow, lesson: Lesson):
        """What the taken actions' values should be, `[B]`; or their distributions, `[B, atoms]`."""
        outputs = self.net.apply(slow, lesson.next_observation)
        chooser = self.net.apply(q, lesson.next_observation) if self.double else outputs
        outputs = _pick(outputs, jnp.argmax(self.values(chooser), axis=-1))
        if self.atoms == 1:
            return lesson.reward + lesson.discount * outputs[..., 0]
        z = lesson.reward[:, None] + lesson.discount[:, None] * self.bins
        return ops.categorical_projection(z, jax.nn.softmax(outputs), self.bins)

    def phases(self, steps: int) -> tuple[Phase, ...]:
        frames = max(self.batch_length + 1, -(-self.prefill // self.num_envs))
        return sequences.phases(self, steps, frames)


def n_step(frames: Frame, discount) -> Lesson:
    """The first step of windows `[n + 1, B]` with the rewards of up to n steps."""
    last = frames.is_last[1:]
    stops = last.at[-1].set(True)
    m = 1 + jnp.argmax(stops, axis=0)  # the first of them
    returns = jax.vmap(
        partial(ops.n_step_returns, lambda_t=1.0, n=len(last)), in_axes=1, out_axes=1
    )(frames.reward[1:], discount * (1.0 - last), jnp.zeros(last.shape))
    column = jnp.arange(last.shape[1])
    return Lesson(
        observation=frames.observation[0],
        action=frames.action[0],
        reward=returns[0],
        discount=discount**m * (1.0 - frames.is_terminal[m, column]),
        next_observation=frames.observation[m, column],
        real=1.0 - frames.is_last[0],
    )


def _pick(outputs, action):
    """The outputs `[B, K]` of one action `[B]` each, out of `[B, A, K]`."""
    return jnp.take_along_axis(outputs, action[:, None, None], axis=1)[:, 0]


class QNetwork(nn.Module):
    """Observations `[..., *shape]` to values `[..., A, 1]`, or logits `[..., A, atoms]`."""

    observation: Box | Discrete
    num_actions: int
    atoms: int
    dueling: bool
    layers: int
    units: int
    depth: int

    @nn.compact
    def __call__(self, observation):
        # Small differences between large values decide: never in bfloat16.
        def head(outputs):
            return MLP(1, self.units, outputs, output_scale=0.0, dtype=jnp.float32)

        x = Encoder(self.observation, self.depth)(observation)
        x = MLP(self.layers - 1, self.units, dtype=jnp.float32)(x)
        q = head(self.num_actions * self.atoms)(x)
        q = q.reshape(*q.shape[:-1], self.num_actions, self.atoms)
        if not self.dueling:
            return q
        return head(self.atoms)(x)[..., None, :] + q - q.mean(axis=-2, keepdims=True)
