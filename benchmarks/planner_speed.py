"""Does a search with the ensemble take longer than mbrl's? And what do 64 at once cost, each?

One plan of the cross-entropy method, judged by particles that ask another member at every step
(TS1), on networks of 4 × 200; then whole acts of PETS in its size `xs`, in 64 environments beside
one. Ratios above 1: mbrl takes longer, or so many times more plans come of the same time at once.
mbrl and PyTorch are installed into `.peers/`, see `peers.py`.
"""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
from common import arguments, report
from ensemble_speed import spec
from peers import SIZES, mbrl, race, serve

from dreamerzero import planning
from dreamerzero.agents.pets import PETS
from dreamerzero.types import TimeStep
from dreamerzero.worlds.ensemble import Ensemble, Latent, weight_decays

AT_ONCE = 64


def main():
    arguments()
    alone, together = ([sys.executable, __file__, str(size)] for size in (1, AT_ONCE))
    several = []
    for cores in (2, 1):
        (row,) = race({"at once": together, "alone": alone}, ["xs plan"], cores=cores)
        several.append({"cores": cores} | row)
    rows = race({"ours": [sys.executable, __file__, "ours"], "mbrl": mbrl()}, ["plan"], repeats=5)
    report("planner_speed", rows, several=several, sizes=SIZES)
    for row in several:
        wall, cpu = (row[f"alone/at once {clock}"] for clock in ("wall", "cpu"))
        rates = f"{wall:.2f} times the rate of plans alone, {cpu:.2f} times by CPU time"
        print(f"{AT_ONCE} plans at once on {row['cores']} cores: {rates}")


def ours() -> dict:
    world = Ensemble(
        spec(),
        members=SIZES["elites"],
        elites=SIZES["elites"],
        units=SIZES["units"],
        weight_decay=weight_decays(SIZES["layers"]),
        particles="ts1",
        discount=1.0,
    )
    params = jax.jit(world.init)(jax.random.key(0))
    mean = jnp.zeros((SIZES["horizon"], SIZES["action"]))
    high = jnp.ones(SIZES["action"])

    @jax.jit
    def plan(params, key, observation):
        step = lambda *inputs: world.step(params, *inputs)  # noqa: E731
        latent = Latent(observation, jnp.int32(-1))
        return planning.cem(
            key,
            planning.scorer(step, latent, particles=SIZES["particles"]),
            mean,
            jnp.full_like(mean, 0.5),
            -high,
            high,
            population=SIZES["population"],
            elites=SIZES["best"],
            iterations=SIZES["iterations"],
            alpha=0.1,
        ).mean

    observation = jnp.zeros(SIZES["observation"])
    call = lambda: jax.block_until_ready(plan(params, jax.random.key(1), observation))  # noqa: E731
    return {"plan": (1, call)}


def acting(size: int) -> dict:
    """Plans of PETS for so many environments at once."""
    agent = PETS(spec(), **PETS.PRESETS["xs"])
    params, timestep, memory = beginning(agent, size)
    act = jax.jit(agent.act, static_argnames="explore")
    times = AT_ONCE // size

    def call():
        for i in range(times):
            output = act(params, jax.random.key(i), timestep, memory, explore=True)
        jax.block_until_ready(output)

    return {"xs plan": (AT_ONCE, call)}


def beginning(agent, size: int) -> tuple:
    """What PETS acts with in so many environments: parameters, what it sees, and its memory."""
    no = jnp.zeros(size, bool)
    seen = jax.random.normal(jax.random.key(1), (size, *agent.spec.observation.shape))
    timestep = TimeStep(seen, jnp.zeros(size), no, no, no)
    world = jax.jit(agent.init)(jax.random.key(0)).params["world"]
    # It learnt nothing, but counts as fitted: before that PETS plans nothing.
    world = world.replace(inputs=world.inputs.replace(count=jnp.ones(())))
    return {"world": world}, timestep, agent.memory(size)


if __name__ == "__main__":
    if "ours" in sys.argv:
        serve(ours())
    elif sys.argv[-1].isdigit():
        serve(acting(int(sys.argv[-1])))
    else:
        main()
