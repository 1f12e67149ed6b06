"""The real world: every gymnax environment by its id, pgx's board games, this project's own,
gymnasium's on the host, and yours."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from numbers import Integral

import gymnasium
import gymnax
from gymnax.environments.environment import Environment

from dreamerzero.envs import host
from dreamerzero.envs.api import Env, instance, wrap
from dreamerzero.envs.boards import GAMES, Board
from dreamerzero.envs.host import HostEnv, HostEnvs
from dreamerzero.envs.mazes import BlockingMaze, DynaMaze, ShortcutMaze
from dreamerzero.envs.pixels import CartPolePixels, PendulumPixels
from dreamerzero.envs.swingup import CartPoleSwingup
from dreamerzero.envs.take_cover import TakeCover
from dreamerzero.envs.track import CarTrack
from dreamerzero.types import UsageError

OWN: dict = {
    "DynaMaze-v0": DynaMaze,
    "BlockingMaze-v0": BlockingMaze,
    "ShortcutMaze-v0": ShortcutMaze,
    "CartPoleSwingup-v0": CartPoleSwingup,
    "CartPole-pixels": CartPolePixels,
    "Pendulum-pixels": PendulumPixels,
    "CarTrack-v0": CarTrack,
    "TakeCover-v0": TakeCover,
}
"""This project's own environments: id → class."""

BINARY = {
    *(
        f"{game}-MinAtar"
        for game in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
    ),
    "Pong-misc",
    "Catch-bsuite",
    "DeepSea-bsuite",
}
"""gymnax ids whose grids are of zeros and ones. They come as floats, and are kept as single bytes:
a replay is mostly observations."""

UNAVAILABLE = {
    "MNISTBandit-bsuite": "it downloads MNIST, and dreamerzero never downloads data",
}
"""gymnax ids that are refused, and why."""


def names() -> tuple[str, ...]:
    """Every id that `make` accepts, but for those that gymnasium has, see `host.names`."""
    return (*OWN, *GAMES, *(name for name in gymnax.registered_envs if name not in UNAVAILABLE))


def make(env: str | Environment | Env, action_repeat: int | None = None) -> Env | HostEnv:
    """The environment of that name, or the given gymnax `Environment` ready for use.

    An id is that of an environment inside the program if there is one, else gymnasium's; those of
    both are gymnasium's as gymnasium/ID.

    Args:
      env: an id, `module:Class`, or an instance of gymnax.
      action_repeat: steps of the environment for each action of the agent; 1, or what an `Env` has.
    Raises:
      UsageError: for an unknown id (with the nearest ones) or an environment that breaks its word.
    """
    env = env if isinstance(env, Env | HostEnv) else _face(env)
    if action_repeat is None or action_repeat == env.action_repeat:
        return env
    if not isinstance(action_repeat, Integral) or action_repeat < 1:
        raise UsageError(f"action_repeat is {action_repeat}; give an integer from 1.")
    if env.spec.masked and action_repeat > 1:
        raise UsageError(f"{env.name} is a game: no move in it can be repeated. Give 1.")
    return env.replace(spec=dataclasses.replace(env.spec, action_repeat=int(action_repeat)))


def _face(env: str | Environment) -> Env | HostEnv:
    if isinstance(env, Environment):
        return wrap(env)
    if not isinstance(env, str):
        raise UsageError(
            f"An environment is a name, module:Class or a gymnax Environment; got {env!r}."
        )
    if ":" not in env:
        return _named(env)
    built = instance(env)
    return host.face(env) if isinstance(built, gymnasium.Env) else wrap(built, name=env)


@functools.cache  # gymnax environments hash by identity: a second instance would recompile
def _named(name: str) -> Env | HostEnv:
    if name in UNAVAILABLE:
        raise UsageError(f"{name} is not available: {UNAVAILABLE[name]}.")
    if name in OWN:
        return wrap(OWN[name](), name=name)
    if name in GAMES:
        return wrap(Board(name), name=name)
    if name not in gymnax.registered_envs and host.knows(name):
        return host.face(name)
    if name not in gymnax.registered_envs:
        near = difflib.get_close_matches(name, (*names(), *host.names()), n=3, cutoff=0.4)
        hint = f" Nearest: {', '.join(near)}." if near else ""
        raise UsageError(f"Unknown environment {name!r}.{hint} `dreamerzero envs` lists all.")
    environment, params = gymnax.make(name)
    return wrap(environment, params, name=name, binary=name in BINARY)


__all__ = ["Env", "HostEnv", "HostEnvs", "make", "names", "wrap"]
