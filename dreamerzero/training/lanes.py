"""Lanes: several seeds of one run, in one program, leaves `[K, ...]`.

Side by side (`vmap`) is the rule. But an agent that `fills_cpu` gains next to nothing from it on a
CPU, where batched matrix products also round differently from single ones: there its lanes take
turns, and each is to the bit what it would be alone.
"""

from __future__ import annotations

from functools import partial

import jax


def over_lanes(agent, function):
    """`function` of one lane, for all lanes."""
    return partial(jax.lax.map, function) if _take_turns(agent) else jax.vmap(function)


def update_lanes(agent, function):
    """The same, for a `function` whose result replaces its argument: in place where it can be."""
    if not _take_turns(agent):
        return jax.vmap(function)

    def update(lanes):
        def one(i, lanes):
            lane = function(jax.tree.map(lambda leaf: leaf[i], lanes))
            return jax.tree.map(lambda leaf, new: leaf.at[i].set(new), lanes, lane)

        return jax.lax.fori_loop(0, len(jax.tree.leaves(lanes)[0]), one, lanes)

    return update


def _take_turns(agent) -> bool:
    return getattr(agent, "fills_cpu", False) and jax.default_backend() == "cpu"
