"""Model-based reinforcement learning in JAX: see, remember, learn a world, use it, act.

Everything a newcomer needs is here, and is imported when it is first used:

    import dreamerzero as dz

    env = dz.make_env("CartPole-v1")
    agent = dz.make_agent("dreamer", env)
    state, metrics = dz.train(agent, env, jax.random.key(0), steps=20_000)
    returns = dz.evaluate(agent, state.agent.params, env, jax.random.key(1))
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_PLACES = {
    "AGENTS": "dreamerzero.agents:AGENTS",
    "make_agent": "dreamerzero.agents:make",
    "make_env": "dreamerzero.envs:make",
    "train": "dreamerzero.training:train",
    "evaluate": "dreamerzero.training:evaluate",
    "load": "dreamerzero.training:load",
}

__all__ = [*_PLACES, "__version__"]


def __getattr__(name: str):
    """Imports on first use: `dreamerzero --help` need not wait for JAX."""
    if name not in _PLACES:
        raise AttributeError(f"module 'dreamerzero' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
