"""What each part of World Models costs: pictures, V, M, dreams and a generation of C.

Collecting and learning with the sizes of the preset `xs` on TakeCover-v0; dreams of 64 candidates
with 16 episodes each, 100 steps long; and what CMA-ES itself needs for the paper's controllers, of
867 and 1,088 numbers. A thing is a frame, a picture, a sequence, a dreamt step or a generation.

    python benchmarks/world_models.py
"""

from __future__ import annotations

import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
from common import arguments, report

from dreamerzero import agents, envs
from dreamerzero.planning import Evolution
from dreamerzero.training import program

REPEATS = 5
ITERATIONS = 5  # in a loop, as in training
POPULATION, EPISODES, DREAMT = 64, 16, 100


def main():
    arguments()
    env = envs.make("TakeCover-v0")
    agent = agents.make(
        "world-models",
        env,
        "xs",
        capacity=20_000,
        pictures=2_000,
        population=POPULATION,
        episodes=EPISODES,
        dreamt_steps=DREAMT,
    )
    collect, vision, _, _, memory, _ = agent.phases(20_000)
    state = jax.jit(partial(program.start, agent, env))(jax.random.key(0))
    for _ in range(3):  # 300 frames of each environment: a sequence has 257
        state = run(agent, env, collect._replace(iterations=ITERATIONS), state)
    rows = [
        measure("frames collected", agent.num_envs * collect.collect, collect, agent, env, state),
        measure("pictures, V", agent.vision_batch, vision, agent, env, state),
        measure("sequences, M", agent.memory_batch, memory, agent, env, state),
    ]
    candidates = jnp.zeros((POPULATION, agent.evolution.dims))
    dream = jax.jit(lambda key: agent.fitness(state.agent, key, candidates, EPISODES))
    number = POPULATION * EPISODES * DREAMT
    rows.append(timed("dreamt steps", number, lambda: dream(jax.random.key(0))))
    for dims in (867, 1_088):
        for separable in (False, True):
            rows.append(generation(Evolution(dims, POPULATION, separable)))
    report("world_models", rows)


@partial(jax.jit, static_argnames="phase")
def run(agent, env, phase, state):
    return program.complete(agent, env, phase, state)[0]


def measure(what: str, number: int, phase, agent, env, state) -> dict:
    phase = phase._replace(iterations=ITERATIONS)
    return timed(what, ITERATIONS * number, lambda: run(agent, env, phase, state))


def generation(evolution: Evolution) -> dict:
    @jax.jit
    def step(state, key):
        candidates, state = evolution.ask(key, state)
        return evolution.tell(state, candidates, -jnp.sum(jnp.square(candidates), axis=1))

    state = evolution.init(jnp.zeros(evolution.dims))
    kind = "diagonal" if evolution.separable else "full"
    what = f"generations, {evolution.dims} {kind}"
    return timed(what, 1, lambda: step(state, jax.random.key(0)))


def timed(what: str, number: int, call) -> dict:
    """How many of these `number` things a second of CPU, and of the clock, is enough for."""
    cpus, walls = [], []
    for _ in range(REPEATS + 1):
        cpu, wall = time.process_time(), time.perf_counter()
        jax.block_until_ready(call())
        cpus.append(time.process_time() - cpu)
        walls.append(time.perf_counter() - wall)
    return {
        "what": what,
        "a CPU-second": number / statistics.median(cpus[1:]),  # the first compiles
        "a second": number / statistics.median(walls[1:]),
    }


if __name__ == "__main__":
    main()
