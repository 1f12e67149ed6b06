"""Lanes are what a function makes of each alone, wherever they are computed."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero.training.lanes import IN_LOOPS, over_lanes, spread, update_lanes, write_lanes

AGENTS = {fills: SimpleNamespace(fills_cpu=fills) for fills in (True, IN_LOOPS)}
AGENTS[False] = SimpleNamespace()


def function(lane):
    return {"x": jnp.sin(lane["x"]) + lane["x"].sum(), "nothing": lane["nothing"]}


def lanes(count):
    x = jnp.arange(3.0 * count).reshape(count, 3)
    return {"x": x, "nothing": jnp.zeros((count, 2, 0))}  # as in an agent without memory


@pytest.mark.parametrize("fills_cpu", AGENTS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_lanes_are_a_loop(fills_cpu, count):
    agent = AGENTS[fills_cpu]
    alone = [function(jax.tree.map(lambda x, i=i: x[i], lanes(count))) for i in range(count)]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    there = spread(agent, lanes(count))
    updates = [partial(update_lanes, loops=loops) for loops in (True, False)]
    for each in (over_lanes, write_lanes, *updates):
        jax.tree.map(np.testing.assert_allclose, each(agent, function)(there), expected)


def test_every_core_takes_its_share():
    cores = len(jax.devices())
    assert cores > 1  # see conftest
    for count, shares in ((cores, cores), (2 * cores, cores), (1, 1)):
        there = spread(AGENTS[True], lanes(count))
        assert len(there["x"].sharding.device_set) == shares
        compiled = jax.jit(update_lanes(AGENTS[True], function, loops=True)).lower(there).compile()
        again = spread(AGENTS[True], compiled(there))
        assert len(again["x"].sharding.device_set) == shares
        compiled(again)  # wants its arguments where it was compiled for
    assert spread(AGENTS[False], lanes(cores))["x"].sharding.device_set == {jax.devices()[0]}
