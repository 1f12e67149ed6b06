"""How fast an agent trains: compile seconds, steps and updates each second, peak memory.

The whole training program, for one seed and for eight side by side, and what a seed of eight costs
compared with a seed alone; and steps of agents that have learnt nothing and go on so, which is what
self-play costs MuZero. Each number of seeds runs in a process of its own, so that its peak memory
is its own.

    python benchmarks/train_speed.py dyna
    python benchmarks/train_speed.py dreamer --env Pendulum-v1 --steps 2000
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp

import dreamerzero as dz
from dreamerzero.training import program, runner
from dreamerzero.training.lanes import spread, update_lanes

DEFAULTS = {
    "dyna": ("DynaMaze-v0", 20_000),
    "planet": ("Pendulum-v1", 1_000),
    "dreamer": ("CartPole-v1", 1_000),
    "muzero": ("CartPole-v1", 10_000),
    "sac": ("Pendulum-v1", 5_000),
}


def measure(name: str, env_name: str, steps: int, seeds: int) -> dict:
    env = dz.make_env(env_name)
    agent = dz.make_agent(name, env)
    phases = agent.phases(steps)
    start = time.perf_counter()
    state = begun(agent, env, seeds)
    learning = [compiled(agent, env, phase, state) for phase in phases]
    compile_s = time.perf_counter() - start

    cpu, wall = time.process_time(), time.perf_counter()
    for phase in learning:
        state = phase(spread(agent, state))
    jax.block_until_ready(state)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = peak_bytes()

    last, state = phases[-1]._replace(learn="", prepare=""), begun(agent, env, seeds)
    acting = compiled(agent, env, last, state)
    acting_s = time.perf_counter()
    jax.block_until_ready(acting(state))
    acting_s = time.perf_counter() - acting_s
    acted = seeds * last.iterations * last.collect * agent.num_envs
    return {
        "seeds": seeds,
        "compile s": compile_s,
        "wall s": wall,
        "CPU s": cpu,
        "env steps/s": seeds * steps / wall,
        "updates/s": seeds * sum(p.iterations * p.updates for p in phases) / wall,
        "peak MiB": peak / 2**20,
        "steps/s, learning nothing": acted / acting_s,
    }


def begun(agent, env, seeds: int):
    """Lanes before their first step."""
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    return spread(agent, runner.start(agent, env, keys))


def compiled(agent, env, phase, state):
    """All of a phase as one program, with lanes and memory as a run by `dreamerzero train` has."""

    def lane(state):
        return program.complete(agent, env, phase, state)[0]

    update = jax.jit(update_lanes(agent, lane, loops=True), donate_argnums=0)
    return update.lower(state).compile()


def peak_bytes() -> int:
    """Of the device where it keeps count, else of this process."""
    stats = jax.devices()[0].memory_stats() or {}
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return stats.get("peak_bytes_in_use", 1024 * kib)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("agent", choices=DEFAULTS)
    parser.add_argument("--env")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int, help=argparse.SUPPRESS)  # of a child process
    args = parser.parse_args()
    env, steps = DEFAULTS[args.agent]
    env, steps = args.env or env, args.steps or steps
    if args.seeds:
        print(json.dumps(measure(args.agent, env, steps, args.seeds)))
        return

    from common import machine, report

    rows, environ = [], os.environ | {"JAX_NUM_CPU_DEVICES": str(machine()["cores"])}
    for seeds in (1, 8):
        command = [sys.executable, __file__, args.agent, "--env", env, "--steps", str(steps)]
        child = subprocess.run(
            [*command, "--seeds", str(seeds)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        rows.append(json.loads(child.stdout))
    ratio = rows[1]["wall s"] / rows[0]["wall s"]
    report(f"train_speed_{args.agent}", rows, env=env, steps=steps, eight_over_one=ratio)
    print(f"8 seeds side by side take {ratio:.1f}× the time of one")


if __name__ == "__main__":
    main()
