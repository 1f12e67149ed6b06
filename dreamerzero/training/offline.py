"""Learning from what another run has seen. Nothing is collected; all else is as in any run."""

from __future__ import annotations

import itertools
from pathlib import Path

import jax

from dreamerzero.training import checkpoints
from dreamerzero.training import config as configs
from dreamerzero.training.config import RunConfig
from dreamerzero.types import Phase, UsageError


def phases(online: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """What a plan learns, without its steps."""
    return tuple(phase._replace(collect=0) for phase in online if phase.learn)


def eval_every(learning: tuple[Phase, ...], config: RunConfig) -> int:
    """Iterations of `phases` between two evaluations: the share that the steps would be."""
    iterations = sum(phase.iterations for phase in learning)
    return max(1, iterations * config.eval_every // config.steps)


def check(shapes, agent, env, config: RunConfig) -> None:
    """Whether an agent, whose learning state has these shapes, can go on from the run in
    `config.replay`.

    Raises:
      UsageError: if the agent keeps no replay; if that run is in another environment, has other
        seeds side by side, no checkpoint yet or too few steps to learn from; or if its agent keeps
        another replay.
    """
    if not hasattr(shapes, "replay"):
        raise UsageError(f"{config.agent} keeps no replay: leave out --replay.")
    source = configs.read(Path(config.replay))
    for name in ("env", "action_repeat", "num_seeds"):
        given, there = getattr(config, name), getattr(source, name)
        if given != there:
            raise UsageError(f"{config.replay} holds a run with {name} {there}; got {given}.")
    replay = getattr(configs.shapes(source, *configs.build(source)).agent, "replay", None)
    if replay is None or _signature(replay) != _signature(shapes.replay):
        raise UsageError(
            f"{config.agent} cannot learn from the replay of {source.agent} in {config.replay}: "
            f"they differ in {_differences(source.fields, config.fields)}."
        )
    taken = checkpoints.manifest(configs.last_checkpoint(Path(config.replay)))["step"]
    if taken < (least := _prefill(agent, env, config)):
        raise UsageError(
            f"{config.replay} has {taken:,} steps, and {config.agent} learns from {least:,} on: "
            "train that run on."
        )


def _prefill(agent, env, config: RunConfig) -> int:
    """The steps that the agent takes before it learns, where it takes any."""
    online = agent.phases(config.steps // env.action_repeat)
    before = itertools.takewhile(lambda phase: not phase.learn, online)
    collected = sum(phase.iterations * phase.collect for phase in before)
    return collected * agent.num_envs * env.action_repeat


def adopt(state, config: RunConfig):
    """An agent's learning state, leaves `[K, ...]`, with the replay of the run in `config.replay`
    and, where it has any, the running moments of what lies in there."""
    checkpoint = configs.last_checkpoint(Path(config.replay))
    replay = checkpoints.restore(checkpoint, state.replay, at=".state.agent.replay")
    params = state.params
    if moments := params.get("observation"):
        at = ".state.agent.params['observation']"
        params = params | {"observation": checkpoints.restore(checkpoint, moments, at=at)}
    return state.replace(replay=replay, params=params)


def _signature(tree):
    """What has to agree of two replays."""
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def _differences(theirs: dict, ours: dict) -> str:
    names = [name for name in theirs if name in ours and theirs[name] != ours[name]]
    listed = [f"{name} ({theirs[name]} there, {ours[name]} here)" for name in names]
    return ", ".join(listed) or "what they keep"
