"""Is MBPO faster than mbrl's? Its parts: a step of the ensemble's learning, rollouts of one step
without and with the policy, and an update of SAC, which a run has most of.

Observations and actions have the sizes of HalfCheetah's. Ratios above 1: mbrl takes longer. mbrl
and PyTorch are installed into `.peers/`, see `peers.py`.
"""

from __future__ import annotations

import sys
from functools import partial

import jax
import jax.numpy as jnp
from common import arguments, report
from peers import SIZES, mbrl, race, serve

from dreamerzero.agents.mbpo import MBPO
from dreamerzero.replay import ring
from dreamerzero.types import Box, EnvSpec, Transition

CALLS = ("training step", "rollouts", "policy and rollouts", "update of SAC")


def main():
    arguments()
    rows = race({"ours": [sys.executable, __file__, "ours"], "mbrl": mbrl()}, CALLS)
    report("ensemble_speed", rows, sizes=SIZES)


def spec() -> EnvSpec:
    """Of an environment with the sizes of HalfCheetah, where episodes never terminate."""
    return EnvSpec(
        "HalfCheetah's sizes",
        Box((SIZES["observation"],)),
        Box((SIZES["action"],), low=-1.0, high=1.0),
        termination=lambda observation, action, successor: jnp.zeros(len(observation), bool),
    )


def ours() -> dict:
    agent = MBPO(
        spec(),
        capacity=SIZES["rows"],
        rollouts=SIZES["rollouts"],
        members=SIZES["members"],
        elites=SIZES["elites"],
        world_layers=SIZES["layers"],
        world_units=SIZES["units"],
    )
    # One epoch, in which next to nothing is held out.
    world = agent.world.replace(batch_size=SIZES["batch"], holdout=0.0, max_epochs=1)

    keys = jax.random.split(jax.random.key(0), 6)
    start = jax.random.normal(keys[0], (SIZES["rollouts"], SIZES["observation"]))
    action = jnp.tanh(jax.random.normal(keys[1], (SIZES["rollouts"], SIZES["action"])))
    count = SIZES["rows"]
    steps = Transition(
        start[:count],
        action[:count],
        jax.random.normal(keys[2], (count,)),
        jnp.zeros(count, bool),
        start[:count] + jax.random.normal(keys[3], start[:count].shape),
    )

    state = jax.jit(agent.init)(keys[4])
    state = state.replace(replay=ring.add(state.replay, steps))
    fit = jax.jit(world.fit)
    params, _, _ = fit(state.params["world"], state.world_optimiser, keys[5], steps, count)
    state = state.replace(params=state.params | {"world": params})
    imagined = [state.imagined]
    state = state.replace(imagined=None)

    def epoch():
        jax.block_until_ready(fit(params, state.world_optimiser, keys[5], steps, count))

    @jax.jit
    def step(params, key, start, action):
        return world.step(params, key, action, world.observe(params, key, None, None, start, None))

    @partial(jax.jit, donate_argnums=0)
    def branch(imagined, state, key):
        return agent.branch(state.replace(imagined=imagined), key, 1)

    def policy_and_rollouts():
        imagined.append(jax.block_until_ready(branch(imagined.pop(), state, keys[5])))

    update_keys = jax.random.split(keys[5], SIZES["updates"])

    @jax.jit
    def learn(state, keys):
        return jax.lax.scan(agent.learn, state, keys)[0].params

    def updates():
        jax.block_until_ready(learn(state.replace(imagined=imagined[0]), update_keys))

    return {
        "training step": (count // SIZES["batch"], epoch),
        "rollouts": (1, lambda: jax.block_until_ready(step(params, keys[5], start, action))),
        "policy and rollouts": (1, policy_and_rollouts),
        "update of SAC": (SIZES["updates"], updates),
    }


if __name__ == "__main__":
    serve(ours()) if "ours" in sys.argv else main()
