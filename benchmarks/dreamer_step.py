"""One update of Dreamer v3, size 1m, on a task shaped like DMC's walker.

16 sequences of 64 frames, imagination of 15 steps, 24 numbers seen (14 + 1 + 9), 6 actions. Prints
parameters, CPU-seconds and wall seconds of an update, and what compiling it costs.

    python benchmarks/dreamer_step.py
"""

from __future__ import annotations

import statistics
import time

import jax
import jax.numpy as jnp
from common import report

from dreamerzero.agents.dreamer import Dreamer
from dreamerzero.types import Box, EnvSpec, Rollout, TimeStep

WALKER = EnvSpec("walker", Box((24,)), Box((6,), low=-1.0, high=1.0))
UPDATES = 10


def main():
    agent = Dreamer(spec=WALKER, **(Dreamer.PRESETS["1m"] | {"capacity": 20_000}))
    agent.check()
    state = jax.jit(agent.init)(jax.random.key(0))
    state = jax.jit(agent.observe)(state, experience(agent, jax.random.key(1)))

    cpu, wall = time.process_time(), time.perf_counter()
    learn = jax.jit(type(agent).learn, donate_argnums=1)
    learn = learn.lower(agent, state, jax.random.key(0)).compile()
    compile_cpu, compile_wall = time.process_time() - cpu, time.perf_counter() - wall

    cpus, walls = [], []
    for i in range(UPDATES + 1):
        cpu, wall = time.process_time(), time.perf_counter()
        state, metrics = jax.block_until_ready(learn(agent, state, jax.random.key(i)))
        cpus.append(time.process_time() - cpu)
        walls.append(time.perf_counter() - wall)
    assert all(jnp.isfinite(value).all() for value in metrics.values())

    learnt = (state.params[name] for name in ("world", "actor", "critic"))
    row = {
        "parameters": sum(leaf.size for part in learnt for leaf in jax.tree.leaves(part)),
        "update CPU-s": statistics.median(cpus[1:]),  # the first warms caches
        "update wall s": statistics.median(walls[1:]),
        "compile CPU-s": compile_cpu,
        "compile wall s": compile_wall,
    }
    report("dreamer_step", [row], updates=UPDATES)


def experience(agent, key) -> Rollout:
    """Noise in the shape of experience, enough for a batch: an update's cost is the same."""
    shape = (2 * agent.batch_length, agent.num_envs)

    def moment(key):
        flags = jnp.zeros(shape, bool)
        return TimeStep(
            observation=jax.random.normal(key, (*shape, 24)),
            reward=jax.random.normal(key, shape),
            terminated=flags,
            truncated=flags,
            is_first=flags,
        )

    before, after, action = jax.random.split(key, 3)
    return Rollout(moment(before), jax.random.normal(action, (*shape, 6)), moment(after))


if __name__ == "__main__":
    main()
