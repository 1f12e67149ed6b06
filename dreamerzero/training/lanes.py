"""Lanes: several seeds of one run, in one program, leaves `[K, ...]`.

Side by side (`vmap`) is the rule. But an agent that `fills_cpu` gains next to nothing from it on a
CPU, where batched matrix products also round differently from single ones. There every core is a
device that takes its share of the lanes, one after the other, and each lane is to the bit what it
would be alone. A core works through a lane with less effort than all cores together, so this pays
from as many lanes as there are cores.

Where Python steps the environments every iteration is a call of its own, and turns copy the replay
in each. Who learns little in an iteration fills a CPU only `IN_LOOPS`: there its lanes stay side by
side.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SHARE = PartitionSpec("seed")  # the only axis of the mesh
IN_LOOPS = "in loops"


def over_lanes(agent, function):
    """`function` of one lane, for all lanes."""
    if _take_turns(agent):
        return _on_cores(partial(jax.lax.map, function))
    return _side_by_side(function)


def update_lanes(agent, function, *, loops: bool):
    """The same, for a `function` whose result replaces its argument: in place where it can be.

    Args:
      loops: whether it repeats what it does many times.
    """
    if not _take_turns(agent) or (not loops and agent.fills_cpu == IN_LOOPS):
        return _side_by_side(function)

    def update(lanes):
        def one(i, lanes):
            lane = function(jax.tree.map(lambda leaf: leaf[i], lanes))
            return jax.tree.map(lambda leaf, new: leaf.at[i].set(new), lanes, lane)

        return jax.lax.fori_loop(0, _count(lanes), one, lanes)

    return _on_cores(update)


def write_lanes(agent, function):
    """`function` of one lane, which only writes a little into much, for all lanes: in place. So it
    has no turns, and a lone lane stays a batch: stripped of it, XLA copies what is written into."""
    return _on_cores(jax.vmap(function)) if _take_turns(agent) else jax.vmap(function)


def spread(agent, lanes):
    """`lanes` where `over_lanes` and `update_lanes` want them: every share on its device."""
    mesh = _mesh(_count(lanes)) if _take_turns(agent) else None
    return lanes if mesh is None else jax.device_put(lanes, NamedSharding(mesh, SHARE))


def _side_by_side(function):
    def every(lanes):
        if _count(lanes) > 1:
            return jax.vmap(function)(lanes)
        # Batches of one make products slower: an update of SAC took 13.6 CPU-ms, and 9.8 so.
        lane = function(jax.tree.map(partial(jnp.squeeze, axis=0), lanes))
        return jax.tree.map(lambda leaf: leaf[None], lane)

    return every


def _on_cores(function):
    def every_share(lanes):
        mesh = _mesh(_count(lanes))
        if mesh is None:
            return function(lanes)
        # No device asks another for anything, so there is nothing to be checked.
        options = {"in_specs": SHARE, "out_specs": SHARE, "check_vma": False}
        new = jax.shard_map(function, mesh=mesh, **options)(lanes)
        # JAX is mistaken about where the parts of a leaf without elements lie, so it is made again.
        return jax.tree.map(lambda x: x if x.size else jnp.zeros(x.shape, x.dtype), new)

    return every_share


def _mesh(count: int) -> Mesh | None:
    """As many devices as can have equal shares of `count` lanes; None for a single one."""
    devices = jax.local_devices()
    shares = max(n for n in range(1, len(devices) + 1) if count % n == 0)
    return Mesh(devices[:shares], ("seed",)) if shares > 1 else None


def _count(lanes) -> int:
    return len(jax.tree.leaves(lanes)[0])


def _take_turns(agent) -> bool:
    return getattr(agent, "fills_cpu", False) and jax.default_backend() == "cpu"
