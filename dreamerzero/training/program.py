"""The one training program: a complete run as a pure function of the agent and a key.

see → remember → learn → act, for every agent: `iteration` collects in the real environment, hands
the rollout to the agent, and lets it learn. `train` scans it; `jit` and `vmap` do the rest. Where
the environment cannot be part of a program, `hosting` takes the place of `collect`.
"""

from __future__ import annotations

import zlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero.envs import HostEnv
from dreamerzero.types import Metrics, Phase, Rollout, TimeStep, UsageError

EPISODES = ("episodes", "episode_return", "episode_length")
"""What is counted of episodes while steps are taken."""


@struct.dataclass
class TrainState:
    """Everything a run is: stop here, and nothing else is needed to go on."""

    agent: Any  # the agent's learning state
    env: Any  # environment states, `[B, ...]`
    timestep: TimeStep  # what the agent sees, `[B, ...]`
    memory: Any  # what acting carries, `[B, ...]`
    key: jax.Array
    episode_return: jax.Array  # of the episodes under way, `[B]`
    episode_length: jax.Array


def train(agent, env, key, steps: int) -> tuple[TrainState, dict[str, Metrics]]:
    """Trains `agent` on `env`: the complete run as one pure function of (agent, key).

    Args:
      steps: environment steps over all parallel environments; a Python integer.
    Returns:
      The final state, and each phase's metrics, `[iterations]` each.
    Raises:
      UsageError: for an environment that is stepped by Python.
    """
    if isinstance(env, HostEnv):
        raise UsageError(
            f"{env.name} is stepped by Python and cannot be part of one pure function: train in it "
            f"with `dreamerzero train … --env {env.name}`, or with dreamerzero.training.run."
        )
    state = start(agent, env, key)
    metrics = {}
    for phase in agent.phases(steps // env.action_repeat):  # static: unrolled at trace time
        state, metrics[phase.name] = complete(agent, env, phase, state)
    return state, metrics


def start(agent, env, key) -> TrainState:
    """A run before its first step."""
    state, timestep = jax.vmap(env.reset)(jax.random.split(named(key, "reset"), agent.num_envs))
    return TrainState(
        agent=agent.init(named(key, "init")),
        env=state,
        timestep=timestep,
        memory=agent.memory(agent.num_envs),
        key=named(key, "run"),
        episode_return=jnp.zeros(agent.num_envs),
        episode_length=jnp.zeros(agent.num_envs, jnp.int32),
    )


def complete(agent, env, phase: Phase, state: TrainState) -> tuple[TrainState, Metrics]:
    """All iterations of a phase, with metrics `[iterations]`."""

    def step(state, _):
        return iteration(agent, env, phase, state)

    return jax.lax.scan(step, state, length=phase.iterations)


def iteration(agent, env, phase: Phase, state: TrainState) -> tuple[TrainState, Metrics]:
    """Collects, remembers, learns. Metrics are scalars; those of `learn` are means over repeats."""
    ended = {}
    if phase.collect:
        state, rollout, ended = collect(agent, env, phase, state)
        state = state.replace(agent=agent.observe(state.agent, rollout))
    state, learnt = learn(agent, phase, state)
    return state, ended | learnt


def collect(agent, env, phase, state: TrainState) -> tuple[TrainState, Rollout, Metrics]:
    """Takes `phase.collect` steps in every environment; the rollout is `[T, B, ...]`."""

    def step(state, key):
        act_key, env_key = jax.random.split(key)
        action, memory, extras = agent.act(
            state.agent.params, act_key, state.timestep, state.memory, explore=phase.explore
        )
        env_state, timestep, successor = jax.vmap(env.step)(
            jax.random.split(env_key, agent.num_envs), state.env, action
        )
        rollout = Rollout(state.timestep, action, successor, extras)
        state = state.replace(env=env_state, timestep=timestep, memory=memory)
        state, ended = tally(state, successor)
        return state, (rollout, ended)

    _, key, _ = _keys(state)
    state, (rollout, ended) = jax.lax.scan(step, state, jax.random.split(key, phase.collect))
    return state, rollout, jax.tree.map(partial(jnp.sum, axis=0), ended)


def learn(agent, phase, state: TrainState) -> tuple[TrainState, Metrics]:
    """The rest of an iteration, once the agent has its rollout."""
    key, _, learn_key = _keys(state)
    learner, metrics = state.agent, {}
    if phase.prepare:
        learn_key, prepare_key = jax.random.split(learn_key)
        learner, metrics = getattr(agent, phase.prepare)(learner, prepare_key)
    if phase.learn:
        keys = jax.random.split(learn_key, phase.repeats)
        learner, learnt = jax.lax.scan(getattr(agent, phase.learn), learner, keys)
        metrics |= jax.tree.map(partial(jnp.mean, axis=0), learnt)
    return state.replace(agent=learner, key=key), metrics


def measured(agent, phase, state: TrainState) -> list[str]:
    """The names of an iteration's metrics, by tracing what it learns.

    Args:
      state: of lanes, leaves `[K, ...]`, or its shapes.
    """
    learnt = jax.eval_shape(jax.vmap(partial(learn, agent, phase)), state)[1]
    return [*learnt, *(EPISODES if phase.collect else ())]


def tally(state: TrainState, successor: TimeStep) -> tuple[TrainState, Metrics]:
    """Counts a step that led to `successor`; the metrics, `EPISODES`, are sums over episodes that
    it ended."""
    episode_return = state.episode_return + successor.reward
    episode_length = state.episode_length + 1
    over = successor.is_last
    ended = {
        "episodes": jnp.sum(over, dtype=jnp.float32),
        "episode_return": jnp.sum(jnp.where(over, episode_return, 0.0)),
        "episode_length": jnp.sum(jnp.where(over, episode_length, 0), dtype=jnp.float32),
    }
    state = state.replace(
        episode_return=jnp.where(over, 0.0, episode_return),
        episode_length=jnp.where(over, 0, episode_length),
    )
    return state, ended


def _keys(state: TrainState):
    """Of an iteration: the next one's, that of collecting and that of learning."""
    return jax.random.split(state.key, 3)


def named(key, name: str):
    """The key of that name: independent of how many others are derived, and in what order."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
