"""Environments that Python steps: what `program.collect` and `evaluate` do, as loops on the host.

`act`, and `absorb` for the rest of an iteration, are programs of all lanes. Between them the host
waits for actions, and the device for what came of them: MuJoCo's environments take .03 to .1 ms a
step, an update of a policy from a millisecond on, so there is little to gain from acting with
parameters that are a step old.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dreamerzero.envs import HostEnv, HostEnvs
from dreamerzero.replay import sequence
from dreamerzero.replay.sequence import SequenceReplay
from dreamerzero.training import program
from dreamerzero.training.lanes import over_lanes, spread, update_lanes, write_lanes
from dreamerzero.types import ActorOutput, Phase, Rollout, strong

ENVS = "envs.pickle.z"
"""In a checkpoint: the environments themselves. Reading it runs what it says, as pickles do."""


@partial(jax.jit, static_argnames="explore")
def act(agent, params, keys, step, timestep, memory, explore: bool) -> ActorOutput:
    """What every lane does at step number `step`, leaves `[K, B, ...]`; each step has the same
    `keys` `[K]`."""

    def lane(inputs):
        params, key, timestep, memory = inputs
        # By name first: numbers alone give the keys that `split` gives to others.
        key = jax.random.fold_in(program.named(key, "act"), step)
        return agent.act(params, key, timestep, memory, explore=explore)

    return over_lanes(agent, lane)((params, keys, timestep, memory))


@partial(jax.jit, static_argnames="phase", donate_argnames="carry")
def absorb(agent, phase: Phase, carry, seen):
    """The rest of an iteration in every lane.

    Args:
      seen: the rollout `[K, T, B, ...]`, the time step after it, and the memory.
    """

    def added(sums, once):
        return sums | {name: sums[name] + value for name, value in once.items()}

    def remember(inputs):
        carry, (rollout, timestep, memory) = inputs
        state = carry.state.replace(timestep=timestep, memory=memory)
        state, ended = jax.lax.scan(program.tally, state, rollout.next_timestep)
        ended = jax.tree.map(partial(jnp.sum, axis=0), ended)
        state = state.replace(agent=agent.observe(state.agent, rollout))
        return carry.replace(state=state, sums=added(carry.sums, ended))

    def learn(carry):
        state, metrics = program.learn(agent, phase, carry.state)
        return carry.replace(state=strong(state), sums=added(carry.sums, metrics))

    carry = write_lanes(agent, remember)((carry, seen))
    return update_lanes(agent, learn, loops=False)(carry)


def advance(compiled, agent, envs: HostEnvs, phase: Phase, carry, count: int):
    """`count` iterations of `phase` in every lane, as `runner.advance`.

    Args:
      compiled: `(what, function, *args, **static) -> function`, compiled for these arguments.
    """
    for _ in range(count):
        seen = spread(agent, collect(compiled, agent, envs, phase, carry.state))
        learn = compiled(phase, absorb, agent, phase, carry, seen)
        carry = learn(agent, carry, seen)  # what is static is already in the program
    return carry


def collect(compiled, agent, envs: HostEnvs, phase: Phase, state):
    """Takes `phase.collect` steps in every environment; see `absorb` for what it returns."""
    memory, rollout = state.memory, []
    what = "exploring" if phase.explore else "acting"
    for step in range(phase.collect):
        args = agent, state.agent.params, state.key, np.int32(step), envs.timestep, memory
        choose = compiled(what, act, *args, explore=phase.explore)
        before = envs.timestep
        action, memory, extras = choose(*args)
        action = np.asarray(action)
        _, successor = envs.step(action)
        rollout.append(Rollout(before, action, successor, extras))
    stack = partial(np.stack, axis=1)
    return jax.tree.map(lambda *steps: stack(steps), *rollout), envs.timestep, memory


def evaluate(agent, params, env: HostEnv, keys, episodes: int, explore: bool, limit: int):
    """`evaluation.evaluate` for lanes of params and keys `[K, ...]`: returns `[K, episodes]`."""
    returns, playing = np.zeros((len(keys), episodes)), np.ones((len(keys), episodes), bool)
    with contextlib.closing(HostEnvs(env, len(keys), episodes)) as envs:
        envs.reset(seeds(keys, episodes))
        memory, step = memories(agent, keys, episodes), 0
        while playing.any() and step < limit:
            args = agent, params, keys, np.int32(step), envs.timestep, memory
            action, memory, _ = act(*args, explore=explore)
            _, successor = envs.step(np.asarray(action), playing)
            returns += np.where(playing, successor.reward, 0.0)
            playing &= ~successor.is_last
            step += 1
    return np.where(playing, np.nan, returns).astype(np.float32)


def film(agent, params, env: HostEnv, key) -> Iterator[tuple[np.ndarray, float]]:
    """A greedy episode of one run: each picture, `[H, W, 3]` bytes, and the reward that followed.

    Raises:
      UsageError: if the environment cannot be drawn here.
    """
    params, keys = jax.tree.map(lambda leaf: leaf[None], params), key[None]
    with contextlib.closing(HostEnvs(env, 1, 1, render_mode="rgb_array")) as envs:
        envs.reset(seeds(keys, 1))
        memory, step, over = memories(agent, keys, 1), 0, False
        while not over:
            picture = envs.draw()
            args = agent, params, keys, np.int32(step), envs.timestep, memory
            action, memory, _ = act(*args, explore=False)
            _, successor = envs.step(np.asarray(action))
            over, step = successor.is_last.item(), step + 1
            yield picture, successor.reward.item()


def begin(envs: HostEnvs, state, keys):
    """`state` `[K, ...]` where new episodes begin, which `keys` `[K]` decide."""
    timestep = envs.reset(seeds(keys, envs.shape[1]))
    return state.replace(
        timestep=jax.tree.map(jnp.array, timestep),
        episode_return=jnp.zeros_like(state.episode_return),
        episode_length=jnp.zeros_like(state.episode_length),
    )


def cut(state):
    """`state` `[K, ...]` with its replayed episodes ended: no return may run on into new ones."""

    def ended(part):
        return jax.vmap(sequence.cut)(part) if is_sequence(part) else part

    def is_sequence(part):
        return isinstance(part, SequenceReplay)

    return state.replace(agent=jax.tree.map(ended, state.agent, is_leaf=is_sequence))


def saved(envs: HostEnvs) -> dict[str, bytes]:
    """What to attach to a checkpoint, as far as they can be saved."""
    content = envs.dump()
    return {} if content is None else {ENVS: content}


def restore(envs: HostEnvs, checkpoint: Path, state) -> bool:
    """Goes on in the environments of a checkpoint with that state, if they are in there."""
    path = checkpoint / ENVS
    if path.exists():
        envs.load(path.read_bytes(), jax.device_get(state.timestep))
    return path.exists()


def memories(agent, keys, size: int):
    """What acting carries in every lane before the first step."""
    return over_lanes(agent, lambda _: agent.memory(size))(keys)


def seeds(keys, size: int):
    """Seeds of environments, `[K, size]`, from keys `[K]`."""
    return np.asarray(jax.vmap(lambda key: jax.random.bits(key, (size,), jnp.uint32))(keys))
