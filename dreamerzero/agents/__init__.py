"""The lineage, in order: each agent is one file, a world × a planner × a learner."""

from __future__ import annotations

import dataclasses
import difflib

import jax
import numpy as np

from dreamerzero import envs
from dreamerzero.agents.alphazero import AlphaZero
from dreamerzero.agents.dqn import DQN
from dreamerzero.agents.dreamer import Dreamer
from dreamerzero.agents.dreamer_v1 import DreamerV1
from dreamerzero.agents.dreamer_v2 import DreamerV2
from dreamerzero.agents.dyna import Dyna
from dreamerzero.agents.efficientzero import EfficientZero
from dreamerzero.agents.efficientzero_v2 import EfficientZeroV2
from dreamerzero.agents.mbpo import MBPO
from dreamerzero.agents.muzero import MuZero
from dreamerzero.agents.muzero_puct import MuZeroPUCT
from dreamerzero.agents.muzero_reanalyse import MuZeroReanalyse
from dreamerzero.agents.muzero_sampled import MuZeroSampled
from dreamerzero.agents.muzero_stochastic import MuZeroStochastic
from dreamerzero.agents.pets import PETS
from dreamerzero.agents.planet import PlaNet
from dreamerzero.agents.ppo import PPO
from dreamerzero.agents.sac import SAC
from dreamerzero.agents.world_models import WorldModels
from dreamerzero.types import Agent, UsageError

AGENTS: dict[str, type] = {
    "dyna": Dyna,
    "mbpo": MBPO,
    "pets": PETS,
    "world-models": WorldModels,
    "planet": PlaNet,
    "dreamer-v1": DreamerV1,
    "dreamer-v2": DreamerV2,
    "dreamer": Dreamer,
    "alphazero": AlphaZero,
    "muzero": MuZero,
    "muzero-puct": MuZeroPUCT,
    "muzero-reanalyse": MuZeroReanalyse,
    "muzero-sampled": MuZeroSampled,
    "muzero-stochastic": MuZeroStochastic,
    "efficientzero": EfficientZero,
    "efficientzero-v2": EfficientZeroV2,
    "dqn": DQN,
    "ppo": PPO,
    "sac": SAC,
}


def make(name: str, env, preset: str | None = None, **fields) -> Agent:
    """An agent for `env`, with the fields of `preset` and then those given.

    Args:
      name: one of `AGENTS`.
      env: what `envs.make` returns.
      preset: one of `AGENTS[name].PRESETS`; if omitted, the agent's choice for this device.
    Raises:
      UsageError: for an unknown agent, preset or field, a value of the wrong type, or an
        environment this agent cannot act in.
    """
    kind, preset = find(name, preset)
    known = {field.name: field for field in dataclasses.fields(kind) if field.name != "spec"}
    for field, value in fields.items():
        if field not in known:
            raise UsageError(f"{name} has no field {field!r}.{nearest(field, known)}")
        _check_value(name, field, value, known[field].default)
        if type(value) is int:  # what computes with a number in float32 may not take an integer
            fields[field] = type(known[field].default)(value)
    if env.spec.masked and not getattr(kind, "plays_games", False):
        able = [name for name, kind in AGENTS.items() if getattr(kind, "plays_games", False)]
        raise UsageError(
            f"{name} knows of no illegal moves, which {env.spec.name} has. Agents that play games: "
            f"{', '.join(able)}."
        )
    agent = kind(spec=env.spec, **(kind.PRESETS[preset] | fields))
    agent.check()
    if not getattr(kind, "foresees", True):
        _check_rules(name, env)
    return agent


def _check_rules(name: str, env) -> None:
    """Raises UsageError if the rules are not what the environment's name stands for: an agent is
    told no more of them."""
    try:
        params = envs.make(env.name).params
    except UsageError as error:
        raise UsageError(f"{name} searches in the rules that an id stands for. {error}") from error
    same = jax.tree.structure(params) == jax.tree.structure(env.params)
    if not same or not all(jax.tree.leaves(jax.tree.map(np.array_equal, params, env.params))):
        raise UsageError(
            f"{name} searches in the rules that {env.name} stands for, and this one has parameters "
            "of its own. Make them the defaults of a class."
        )


def find(name: str, preset: str | None = None) -> tuple[type, str]:
    """The class of that name, and the preset: the given one, or its choice for this device.

    Raises:
      UsageError: for an unknown agent or preset.
    """
    if name not in AGENTS:
        raise UsageError(f"Unknown agent {name!r}.{nearest(name, AGENTS)}")
    kind = AGENTS[name]
    preset = preset or kind.default_preset(jax.default_backend())
    if preset not in kind.PRESETS:
        raise UsageError(f"Unknown preset {preset!r} of {name}.{nearest(preset, kind.PRESETS)}")
    return kind, preset


def nearest(name: str, allowed) -> str:
    """The end of an error message: the likeliest names, then all of them."""
    near = difflib.get_close_matches(name, list(allowed), n=3, cutoff=0.5)
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    return f"{hint} Allowed: {', '.join(allowed)}."


def _check_value(name, field, value, default):
    if isinstance(default, float) and not isinstance(value, bool | str):
        return  # an integer, an array or a tracer serves as a hyperparameter that is a number
    if type(value) is not type(default):
        raise UsageError(
            f"{name}.{field} wants {type(default).__name__} (default {default!r}); got {value!r}."
        )
    if type(value) is int and value < 0:
        raise UsageError(f"{name}.{field} is not negative; got {value}.")
