"""How good an agent is: the returns of whole episodes in fresh environments."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dreamerzero.envs import HostEnv
from dreamerzero.training import hosting
from dreamerzero.training.lanes import over_lanes

LIMIT = 20_000
"""Steps after which an episode is given up: a greedy policy can walk in circles for ever."""


def evaluate(agent, params, env, key, episodes: int = 32, explore: bool = False, limit=LIMIT):
    """Plays `episodes` fresh environments side by side, one full episode in each.

    In a game for two the agent moves for both, and the sum of their rewards says little:
    `training.games.duel` makes it a game against somebody.

    Args:
      params: what the agent acts with, of one run (no leading axis; `vmap` over it for several).
      explore: act as in training; greedily, or with the mean action, if not.
      limit: steps after which an episode is given up.
    Returns:
      Undiscounted returns `[episodes]`; NaN where the episode did not end within `limit` steps.
    """
    if isinstance(env, HostEnv):
        lane = jax.tree.map(lambda leaf: leaf[None], params)
        return hosting.evaluate(agent, lane, env, key[None], episodes, explore, limit)[0]
    return _evaluate(agent, params, env, key, episodes, explore, limit)


@partial(jax.jit, static_argnames=("episodes", "explore", "limit"))
def _evaluate(agent, params, env, key, episodes, explore, limit):
    reset_key, run_key = jax.random.split(key)
    env_state, timestep = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))
    returns, under_way = jnp.zeros(episodes), jnp.ones(episodes, bool)

    def go_on(carry):
        step, *_, under_way = carry
        return under_way.any() & (step < limit)

    def play(carry):
        step, env_state, timestep, memory, returns, under_way = carry
        act_key, env_key = jax.random.split(jax.random.fold_in(run_key, step))
        action, memory, _ = agent.act(params, act_key, timestep, memory, explore=explore)
        env_state, timestep, successor = jax.vmap(env.step)(
            jax.random.split(env_key, episodes), env_state, action
        )
        returns += jnp.where(under_way, successor.reward, 0.0)
        under_way &= ~successor.is_last
        return step + 1, env_state, timestep, memory, returns, under_way

    carry = (0, env_state, timestep, agent.memory(episodes), returns, under_way)
    *_, returns, under_way = jax.lax.while_loop(go_on, play, carry)
    return jnp.where(under_way, jnp.nan, returns)


def evaluate_lanes(agent, params, env, keys, episodes: int):
    """`evaluate` for lanes of params and keys `[K, ...]`: returns `[K, episodes]`."""
    if isinstance(env, HostEnv):
        return hosting.evaluate(agent, params, env, keys, episodes, explore=False, limit=LIMIT)
    return evaluate_at_once(agent, params, env, keys, episodes)


@partial(jax.jit, static_argnames="episodes")
def evaluate_at_once(agent, params, env, keys, episodes: int):
    """`evaluate_lanes` as one program, for environments that can be part of one."""

    def lane(inputs):
        params, key = inputs
        return _evaluate(agent, params, env, key, episodes, explore=False, limit=LIMIT)

    return over_lanes(agent, lane)((params, keys))


def unfinished(returns) -> str:
    """A sentence for people if some of these episodes never ended, else an empty string."""
    count = int(np.isnan(returns).sum())
    if not count:
        return ""
    return (
        f"{count} of {np.size(returns)} evaluation episodes did not end within {LIMIT} actions: "
        "their return, and every mean they are in, is undefined."
    )
