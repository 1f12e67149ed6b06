"""One update of Dreamer v3, size 1m: on a task shaped like DMC's walker, and on pictures.

16 sequences of 64 frames, imagination of 15 steps. The walker shows 24 numbers (14 + 1 + 9) and has
6 actions; the pictures are 64×64×3 bytes, with 17 actions to choose from and strided convolutions.
Prints parameters, CPU-seconds and wall seconds of an update, and what compiling it costs.

    python benchmarks/dreamer_step.py
"""

from __future__ import annotations

import statistics
import time

import jax
import jax.numpy as jnp
from common import arguments, report

from dreamerzero.agents.dreamer import Dreamer
from dreamerzero.types import Box, Discrete, EnvSpec, Rollout, TimeStep

WALKER = EnvSpec("walker", Box((24,)), Box((6,), low=-1.0, high=1.0))
PICTURES = EnvSpec("pictures", Box((64, 64, 3), "uint8", 0.0, 255.0), Discrete(17))
UPDATES = 3  # in a loop
REPEATS = 5  # of the loop


def main():
    arguments()
    rows = [measure(WALKER, capacity=20_000), measure(PICTURES, capacity=4096, conv="strided")]
    report("dreamer_step", rows, updates=UPDATES)


def measure(spec: EnvSpec, **fields) -> dict:
    agent = Dreamer(spec=spec, **(Dreamer.PRESETS["1m"] | fields))
    agent.check()
    state = jax.jit(agent.init)(jax.random.key(0))
    rollout = experience(agent, state.replay.frames.context, jax.random.key(1))
    state = jax.jit(agent.observe)(state, rollout)

    # In a loop, as in training: XLA compiles what is inside of one differently.
    cpu, wall = time.process_time(), time.perf_counter()
    keys = jax.random.split(jax.random.key(0), UPDATES)
    learn = jax.jit(lambda agent, *args: jax.lax.scan(agent.learn, *args), donate_argnums=1)
    learn = learn.lower(agent, state, keys).compile()
    compile_cpu, compile_wall = time.process_time() - cpu, time.perf_counter() - wall

    cpus, walls = [], []
    for _ in range(REPEATS + 1):
        cpu, wall = time.process_time(), time.perf_counter()
        state, metrics = jax.block_until_ready(learn(agent, state, keys))
        cpus.append((time.process_time() - cpu) / UPDATES)
        walls.append((time.perf_counter() - wall) / UPDATES)
    assert all(jnp.isfinite(value).all() for value in metrics.values())

    learnt = (state.params[name] for name in ("world", "actor", "critic"))
    return {
        "task": spec.name,
        "parameters": sum(leaf.size for part in learnt for leaf in jax.tree.leaves(part)),
        "update CPU-s": statistics.median(cpus[1:]),  # the first warms caches
        "update wall s": statistics.median(walls[1:]),
        "compile CPU-s": compile_cpu,
        "compile wall s": compile_wall,
    }


def experience(agent, context, key) -> Rollout:
    """Noise in the shape of experience, enough for a batch: an update's cost is the same.

    Args:
      context: what the replay keeps with its frames, here zeros.
    """
    shape = (2 * agent.batch_length, agent.num_envs)

    def noise(key, space):
        if isinstance(space, Discrete):
            return jax.random.randint(key, shape, 0, space.num)
        if space.dtype == "uint8":
            return jax.random.bits(key, (*shape, *space.shape), jnp.uint8)
        return jax.random.normal(key, (*shape, *space.shape))

    def moment(key):
        flags = jnp.zeros(shape, bool)
        return TimeStep(
            observation=noise(key, agent.spec.observation),
            reward=jax.random.normal(key, shape),
            terminated=flags,
            truncated=flags,
            is_first=flags,
        )

    before, after, action = jax.random.split(key, 3)
    extras = jax.tree.map(lambda leaf: jnp.zeros((*shape, *leaf.shape[2:]), leaf.dtype), context)
    return Rollout(moment(before), noise(action, agent.spec.action), moment(after), extras)


if __name__ == "__main__":
    main()
