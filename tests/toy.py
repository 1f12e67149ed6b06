"""The smallest agent with every part of the protocol: linear Q-learning from the last rollout."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero.types import ActorOutput, EnvSpec, Phase, Rollout, static


@struct.dataclass
class State:
    params: jax.Array  # [D + 1, A]
    target: jax.Array
    last: Any  # the rollout to learn from, leaves [T, B, ...]
    key: jax.Array


@struct.dataclass
class Toy:
    """Linear Q-learning with a slow target."""

    spec: EnvSpec = static()
    num_envs: int = static(4)
    """Parallel environments."""
    collect: int = static(5)  # Steps between two updates.
    learning_rate: float = 1e-2
    """Step size of the
    update."""
    epsilon: float = 0.3

    PRESETS: ClassVar[dict[str, dict]] = {"default": {}}
    replayed_per_update: ClassVar[int] = 20

    def init(self, key) -> State:
        size = self.spec.observation.shape[0] + 1
        params = 0.1 * jax.random.normal(key, (size, self.spec.action.num))
        last = jnp.zeros((self.collect, self.num_envs))
        x = jnp.zeros((*last.shape, size))
        return State(params, params, (x, last.astype(jnp.int32), last, last, x), key)

    def memory(self, batch_size: int):
        return jnp.zeros((batch_size, 0))  # no elements: a checkpoint has to cope

    def act(self, params, key, timestep, memory, *, explore: bool) -> ActorOutput:
        greedy = jnp.argmax(_features(timestep.observation) @ params, axis=-1)
        if not explore:
            return ActorOutput(greedy, memory)
        coin_key, action_key = jax.random.split(key)
        anything = jax.random.randint(action_key, greedy.shape, 0, self.spec.action.num)
        coin = jax.random.bernoulli(coin_key, self.epsilon, greedy.shape)
        return ActorOutput(jnp.where(coin, anything, greedy), memory)

    def observe(self, state: State, rollout: Rollout) -> State:
        x, y = (_features(t.observation) for t in (rollout.timestep, rollout.next_timestep))
        after = rollout.next_timestep
        return state.replace(last=(x, rollout.action, after.reward, 0.9 * ~after.terminated, y))

    def learn(self, state: State, key):
        x, action, reward, discount, y = state.last

        def loss(params):
            goal = reward + discount * (y @ state.target).max(axis=-1)
            q = jnp.take_along_axis(x @ params, action[..., None], axis=-1)[..., 0]
            return jnp.mean((q - goal) ** 2)

        value, gradient = jax.value_and_grad(loss)(state.params)
        params = state.params - self.learning_rate * gradient
        target = 0.9 * state.target + 0.1 * params
        return state.replace(params=params, target=target), {"loss": value}

    def phases(self, steps: int) -> tuple[Phase, ...]:
        iterations = steps // (self.collect * self.num_envs)
        prefill = iterations // 4
        return (
            Phase("prefill", prefill, self.collect, learn=""),
            Phase("fit", 3, 0, repeats=2),
            Phase("train", iterations - prefill, self.collect, repeats=2),
        )


def _features(observation):
    return jnp.concatenate([observation, jnp.ones((*observation.shape[:-1], 1))], axis=-1)
