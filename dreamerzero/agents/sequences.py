"""What agents share: checks of their fields, plans of their phases, replayed sequences."""

from __future__ import annotations

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dreamerzero.nn.normalisers import RunningMoments
from dreamerzero.replay import sequence
from dreamerzero.types import Box, Discrete, EnvSpec, Phase, Rollout, TimeStep, UsageError
from dreamerzero.worlds.rssm import RSSM, Latent


@struct.dataclass
class Memory:
    """What acting carries: the filtered latent, and the action taken there."""

    latent: Latent
    action: jax.Array


def memory(spec: EnvSpec, world: RSSM, batch_size: int) -> Memory:
    """What acting carries before the first step."""
    action = jnp.zeros((batch_size, *spec.action.shape), spec.action.dtype)
    return Memory(world.initial(batch_size), action)


def filter_in(spec: EnvSpec, world: RSSM, params, key, timestep: TimeStep, memory) -> Latent:
    """The latent `[B, ...]` after what `timestep` shows."""
    observation = see(spec, params, timestep.observation)
    return world.observe(
        params["world"], key, memory.latent, memory.action, observation, timestep.is_first
    )


def check(agent, name: str) -> None:
    """Raises UsageError for environments and sizes that no agent with replayed sequences could make
    sense of."""
    check_networks(agent, name)
    check_replay(agent)
    frames = agent.capacity // agent.num_envs
    if frames <= 2 * agent.batch_length:
        raise UsageError(
            f"capacity {agent.capacity} over {agent.num_envs} environments leaves {frames} frames "
            f"each; more than {2 * agent.batch_length} (2 · batch_length) are needed."
        )


def check_networks(agent, name: str) -> None:
    """Raises UsageError for observations and actions that the networks here do not take, and for
    networks without units or channels."""
    check_sizes(agent, "units", "depth")
    spec, observation = agent.spec, agent.spec.observation
    if len(spec.action.shape) != isinstance(spec.action, Box):
        raise UsageError(
            f"{name} acts with one integer or a vector; {spec.name} wants actions of shape "
            f"{spec.action.shape}. Flatten them in the environment."
        )
    if isinstance(observation, Box) and len(observation.shape) not in (1, 2, 3):
        raise UsageError(
            f"{name} sees vectors [N] and images [H, W] or [H, W, C]; {spec.name} shows shape "
            f"{observation.shape}. Reshape it in the environment."
        )
    if isinstance(observation, Box) and len(observation.shape) > 1 and not _bounded(observation):
        raise UsageError(
            f"{name} scales images by their bounds; {spec.name} has {observation.low} and "
            f"{observation.high}. Give its space two finite numbers, the lower one first."
        )


def _bounded(space: Box) -> bool:
    low, high = space.low, space.high
    return np.ndim(low) == np.ndim(high) == 0 and bool(
        np.isfinite([low, high]).all() and low < high
    )


def check_replay(agent) -> None:
    """Raises UsageError for a replay that holds nothing or is not learnt from."""
    check_sizes(agent, "num_envs", "batch_size", "capacity")
    check_positive(agent, "train_ratio")


def check_shooting(agent, name: str, instead: str) -> None:
    """Raises UsageError for actions and sizes that no shooting planner could make sense of."""
    if isinstance(agent.spec.action, Discrete) or not agent.spec.action.shape:
        raise UsageError(
            f"{name} searches over vectors of continuous actions; {agent.spec.name} wants "
            f"{agent.spec.action}. Try {instead} there."
        )
    check_sizes(agent, "planned", "iterations")
    if not 0 < agent.elites <= agent.population:
        raise UsageError(
            f"elites ({agent.elites}) must be from 1 to population ({agent.population})."
        )


def check_sizes(agent, *fields: str) -> None:
    """Raises UsageError for a field below 1."""
    for field in fields:
        if getattr(agent, field) < 1:
            raise UsageError(f"{field} is at least 1; got {getattr(agent, field)}.")


def check_positive(agent, *fields: str) -> None:
    """Raises UsageError for a number that is not above 0, or infinite; arrays and tracers pass."""
    for field, value in _numbers(agent, fields):
        if not 0 < value < math.inf:
            raise UsageError(f"{field} is above 0 and finite; got {value}.")


def check_not_negative(agent, *fields: str) -> None:
    """Raises UsageError for a number below 0; arrays and tracers pass."""
    for field, value in _numbers(agent, fields):
        if not value >= 0:
            raise UsageError(f"{field} is 0 or more; got {value}.")


def check_shares(agent, *fields: str) -> None:
    """Raises UsageError for a number that is not from 0 to 1; arrays and tracers pass."""
    for field, value in _numbers(agent, fields):
        if not 0 <= value <= 1:
            raise UsageError(f"{field} is a share, from 0 to 1; got {value}.")


def check_order(agent, lower: str, upper: str) -> None:
    """Raises UsageError for a number that is not under another; arrays and tracers pass."""
    match list(_numbers(agent, (lower, upper))):
        case [(_, low), (_, high)] if not low < high:
            raise UsageError(f"{lower} ({low}) must be under {upper} ({high}).")


def _numbers(agent, fields):
    """Names and values of those that are known already: neither arrays nor tracers."""
    values = ((field, getattr(agent, field)) for field in fields)
    return ((field, value) for field, value in values if isinstance(value, int | float))


def check_choices(agent, choices: dict[str, tuple[str, ...]]) -> None:
    """Raises UsageError for a field whose value is not among its choices."""
    for field, allowed in choices.items():
        if getattr(agent, field) not in allowed:
            raise UsageError(
                f"{field} is one of {', '.join(allowed)}; got {getattr(agent, field)!r}."
            )


def phases(agent, steps: int, frames: int | None = None) -> tuple[Phase, Phase]:
    """Prefill until every stream can give a window, then collect and learn in turn.

    An update replays `agent.replayed_per_update` steps. To meet `train_ratio` there are so many
    updates after so many steps of all environments, in small whole numbers.

    Args:
      frames: that every stream gets first, at least; one more than a window if omitted.
    """
    frames = agent.batch_length + 1 if frames is None else frames
    updates_per_step = agent.train_ratio * agent.num_envs / agent.replayed_per_update
    most = max(8, round(1 / updates_per_step))
    repeats, collect = Fraction(updates_per_step).limit_denominator(most).as_integer_ratio()
    if 2 * collect * agent.num_envs > agent.capacity:
        raise UsageError(
            f"With train_ratio {agent.train_ratio} {agent.num_envs} environments collect {collect} "
            f"steps each at a time, and capacity ({agent.capacity}) is at least twice as many. "
            "Raise either."
        )
    prefill = math.ceil(frames / collect)
    train = steps // (collect * agent.num_envs) - prefill
    if train < 1:
        least = (prefill + 1) * collect * agent.num_envs
        raise UsageError(
            f"These sizes need at least {least} steps for each repeat of an action; got {steps}."
        )
    return (
        Phase("prefill", prefill, collect, learn=""),
        Phase("train", train, collect, repeats=repeats),
    )


def check_refits(agent) -> None:
    """Raises UsageError if `refit_every` steps cannot be shared by all environments, or not be
    held, or the first fit had nothing to learn from or to be judged by."""
    if agent.refit_every % agent.num_envs:
        raise UsageError(
            f"refit_every ({agent.refit_every}) must be a multiple of num_envs ({agent.num_envs})."
        )
    if agent.prefill < 2:
        raise UsageError(f"prefill is at least 2, or nothing is held out; got {agent.prefill}.")
    collected = max(-(-agent.prefill // agent.num_envs) * agent.num_envs, agent.refit_every)
    if agent.capacity < collected:
        raise UsageError(
            f"capacity ({agent.capacity}) must hold the {collected} steps that are collected "
            "between two fits."
        )


def refits(agent, steps: int) -> tuple[int, int, int]:
    """The plan of an agent that fits its world anew every `refit_every` steps, after `prefill`:
    steps before the first fit in every environment, refits after it, and steps between two."""
    first = -(-agent.prefill // agent.num_envs)
    train = (steps - first * agent.num_envs) // agent.refit_every
    if train < 1:
        least = first * agent.num_envs + agent.refit_every
        raise UsageError(
            f"These sizes need at least {least} steps for each repeat of an action; got {steps}."
        )
    return first, train, agent.refit_every // agent.num_envs


def moments(spec: EnvSpec) -> dict[str, RunningMoments]:
    """The part `observation` of params: where the running moments of vectors begin."""
    return {"observation": RunningMoments.init(spec.observation.shape)}


def remember(spec: EnvSpec, state, rollout: Rollout):
    """`state` with the rollout in its replay, and vectors in the running moments."""
    params = take_in(spec, state.params, rollout.next_timestep.observation)
    return state.replace(params=params, replay=sequence.add(state.replay, rollout))


def take_in(spec: EnvSpec, params, observation):
    """`params` with observations `[..., *shape]`, if they are vectors, in the running moments."""
    if not _shows_vectors(spec):
        return params
    seen = params["observation"].update(observation)
    return params | {"observation": seen}


@struct.dataclass
class Batch:
    """What one update replays.

    `frames` are `[batch_length, batch_size, ...]`, as the world sees them; `memory` is what the
    frame before them left, `place` where they lie in the replay."""

    frames: sequence.Frame
    memory: Memory
    place: sequence.Place


def sample(agent, state, key) -> tuple[sequence.SequenceReplay, Batch]:
    """The next batch, and the replay after it was drawn."""
    # One frame more: all that is wanted of it is what the agent knew and did there.
    replay, frames, place = sequence.sample(
        state.replay, key, agent.batch_size, agent.batch_length + 1
    )
    before, frames, place = (
        jax.tree.map(lambda leaf: leaf[0], frames),
        jax.tree.map(lambda leaf: leaf[1:], frames),
        place.replace(slot=place.slot[1:]),
    )
    if before.context is None:  # a window begins with nothing known
        start = memory(agent.spec, agent.world, agent.batch_size)
        frames = frames.replace(is_first=frames.is_first.at[0].set(True))
    else:
        start = Memory(agent.world.unpack(before.context), before.action)
    observation = see(agent.spec, state.params, frames.observation)
    return replay, Batch(frames.replace(observation=observation), start, place)


def see(spec: EnvSpec, params, observation):
    """Vectors in units of their own spread, so that no element is too small to reconstruct."""
    return params["observation"].normalise(observation) if _shows_vectors(spec) else observation


def show(spec: EnvSpec, params, observation):
    """The inverse of `see`: what the world shows, in the environment's own units."""
    return params["observation"].denormalise(observation) if _shows_vectors(spec) else observation


def _shows_vectors(spec: EnvSpec) -> bool:
    return isinstance(spec.observation, Box) and len(spec.observation.shape) == 1
