"""Is SAC faster than sbx's and stable-baselines3's? A step of the environment and an update.

Pendulum-v1, ours in the program and theirs gymnasium's; HalfCheetah-v5, MuJoCo for all; and what
eight seeds side by side cost beside one. Ratios above 1: the peer takes longer. The peers and
PyTorch are installed into `.peers/`, see `peers.py`. Ours needs the extra `mujoco`.
"""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
from common import arguments, report
from peers import HERE, SAC_SIZES, python, race, serve

from dreamerzero import agents, envs
from dreamerzero.envs import HostEnv, HostEnvs
from dreamerzero.training import hosting, program, runner

STEPS = 200
SEEDS = 8


def main():
    arguments()
    rows = []
    for env in ("Pendulum-v1", "HalfCheetah-v5"):
        sides = {"ours": [sys.executable, __file__, env, "1"]}
        for peer in ("sbx", "sb3"):
            sides[peer] = [python("sac"), str(HERE / "peer_sac.py"), peer, env, str(STEPS)]
        rows += [{"env": env} | row for row in race(sides, ["step"])]
    lanes = {f"{n} seeds": [sys.executable, __file__, "Pendulum-v1", str(n)] for n in (1, SEEDS)}
    (seeds,) = race(lanes, ["step"], repeats=3)
    report("sac_speed", rows, seeds=seeds, sizes=SAC_SIZES)
    ratio = seeds[f"{SEEDS} seeds/1 seeds cpu"]
    print(f"{SEEDS} seeds side by side take {ratio:.1f}× the CPU time of one")


def ours(name: str, seeds: int) -> dict:
    """Steps with updates, as a run takes them."""
    env = envs.make(name)
    agent = agents.make(
        "sac",
        env,
        "paper",
        capacity=SAC_SIZES["capacity"],
        prefill=SAC_SIZES["prefill"],
        batch_size=SAC_SIZES["batch"],
        train_ratio=float(SAC_SIZES["batch"]),
        layers=SAC_SIZES["layers"],
        units=SAC_SIZES["units"],
    )
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    state = runner.start(agent, env, keys)
    world = HostEnvs(env, seeds, agent.num_envs) if isinstance(env, HostEnv) else None
    if world:
        state = hosting.begin(world, state, keys)
    prefill, train = agent.phases(10 * SAC_SIZES["prefill"])
    names, programs = {}, {}
    for phase in (prefill, train):  # traces, so it must not be timed
        names[phase] = program.measured(agent, phase, state)

    def compiled(what, function, *args, **static):
        if what not in programs:
            programs[what] = function.lower(*args, **static).compile()
        return programs[what]

    def advance(phase, state, count):
        carry = runner.Carry(state, {name: jnp.zeros(seeds) for name in names[phase]})
        if world:
            carry = hosting.advance(compiled, agent, world, phase, carry, count)
        else:
            carry = runner.advance(agent, env, phase, carry, jnp.int32(count))
        return jax.block_until_ready(carry.state)

    states = [advance(prefill, state, prefill.iterations)]
    return {"step": (STEPS, lambda: states.append(advance(train, states.pop(), STEPS)))}


if __name__ == "__main__":
    serve(ours(sys.argv[1], int(sys.argv[2]))) if len(sys.argv) == 3 else main()
