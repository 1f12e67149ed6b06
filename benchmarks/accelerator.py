"""What do batches cost on an accelerator? Each part alone, larger and larger.

A GPU waits for small batches: `gain` is the throughput of a row over that of the first row with the
same name, and what is next to nothing dearer than a smaller batch is free. One part in a process:

    python benchmarks/accelerator.py dreamer
    python benchmarks/accelerator.py muzero
    python benchmarks/accelerator.py ensemble
    python benchmarks/accelerator.py world-models
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from common import report, timed
from dreamer_step import PICTURES, WALKER, experience
from ensemble_speed import spec as halfcheetah
from planner_speed import beginning
from search_speed import by_agent

from dreamerzero import agents, envs
from dreamerzero.agents import sequences
from dreamerzero.agents.dreamer import Dreamer
from dreamerzero.agents.mbpo import MBPO
from dreamerzero.agents.pets import PETS
from dreamerzero.agents.sac import SAC
from dreamerzero.planning import imagine
from dreamerzero.replay import ring
from dreamerzero.training import program
from dreamerzero.types import Transition

UPDATES = 10  # in a loop, as in training


class Case(NamedTuple):
    """What is timed: `run(start())`, without `start`."""

    what: str
    size: dict
    number: int
    """of things, the name of which ends `what`, that `run` gets done"""
    start: Callable[[], Any]
    run: Callable[[Any], Any]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("part", choices=PARTS)
    part = parser.parse_args().part
    cases = PARTS[part]()
    # Compiling is most of the waiting, and XLA does not hold Python's lock.
    with ThreadPoolExecutor() as pool:
        programs = list(pool.map(compiled, cases))
    rows, first = list(map(measure, cases, programs)), {}
    for row in rows:
        row["gain"] = row["a second"] / first.setdefault(row["what"], row["a second"])
    report(f"{jax.default_backend()}_{part}", rows)


def compiled(case: Case):
    start = jax.jit(case.start)
    return start.lower().compile(), jax.jit(case.run).lower(jax.eval_shape(start)).compile()


def measure(case: Case, programs) -> dict:
    start, run = programs
    given = start()
    _, seconds = timed(lambda: run(given))
    size = " ".join(f"{name} {value}" for name, value in case.size.items())
    return {"what": case.what, "of": size, "ms": 1e3 * seconds, "a second": case.number / seconds}


def over_seeds(seeds: int, function, *inputs):
    """`function` of a key, and of `inputs [seeds, ...]`, side by side."""
    return jax.vmap(function)(jax.random.split(jax.random.key(0), seeds), *inputs)


def dreamer() -> list[Case]:
    cases = []
    for preset in ("1m", "12m"):
        for spec, capacity in ((WALKER, 20_000), (PICTURES, 8192)):
            # Sequences in a batch and seeds; the published ones first.
            sizes = [(16, 1), (256, 1), (16, 8)] if spec is WALKER else [(16, 1)]
            for batch_size, seeds in sizes:
                fields = Dreamer.PRESETS[preset] | {"batch_size": batch_size, "capacity": capacity}
                agent = Dreamer(spec=spec, **fields)
                size = {"sequences": batch_size, "seeds": seeds}
                cases.append(updates(f"{preset}, {spec.name}: updates", size, agent, begun, seeds))
            cases += shares(f"{preset}, {spec.name}", agent)
        env = envs.make("CartPole-v1")
        agent = agents.make("dreamer", env, preset, capacity=20_000)
        cases.append(training(f"{preset}, CartPole-v1: steps", {}, agent, env, 1, 2))
    return cases


def begun(agent, key):
    """The state of an agent that learns from sequences, with enough experience."""
    state = agent.init(key)
    return agent.observe(state, experience(agent, state.replay.frames.context, key))


def updates(what: str, size: dict, agent, begin, seeds: int) -> Case:
    def run(states):
        def learn(key, state):
            return jax.lax.scan(agent.learn, state, jax.random.split(key, UPDATES))[0].params

        return over_seeds(seeds, learn, states)

    return Case(what, size, UPDATES * seeds, lambda: over_seeds(seeds, partial(begin, agent)), run)


def shares(what: str, agent) -> list[Case]:
    """The parts of an update, each alone and outside of a loop; the rest is actor and critic."""

    def start():
        state = begun(agent, jax.random.key(0))
        _, batch = sequences.sample(agent, state, jax.random.key(1))
        params = {name: state.params[name] for name in ("world", "actor", "critic")}
        return state, batch, params

    def world_loss(world, batch):
        latent, action = batch.memory.latent, batch.memory.action
        return agent.world.loss(world, jax.random.key(2), batch.frames, latent, action)[0]

    def dream(given):
        params = given[2]
        latent = agent.world.initial(agent.replayed_per_update)
        return imagine(
            jax.random.key(3),
            lambda key, latent: agent.policy(params, latent.features).sample(seed=key),
            partial(agent.world.step, params["world"]),
            latent,
            agent.imagination,
        )

    parts = {
        "world, with gradient": lambda given: jax.grad(world_loss)(given[2]["world"], given[1]),
        "imagination": dream,
        "optimiser": lambda given: agent.descent.update(given[2], given[0].optimiser, given[2]),
    }
    return [Case(f"{what}: of it {part}", {}, 1, start, run) for part, run in parts.items()]


def training(what: str, size: dict, agent, env, seeds: int, iterations: int) -> Case:
    """Steps of whole training programs: acting in the environment, and learning."""
    *prefill, train = agent.phases(1_000_000)

    def start():
        def one(key):
            state = program.start(agent, env, key)
            for phase in prefill:
                state, _ = program.complete(agent, env, phase, state)
            return state

        return over_seeds(seeds, one)

    def run(states):
        phase = train._replace(iterations=iterations)
        return jax.vmap(lambda state: program.complete(agent, env, phase, state)[1])(states)

    steps = seeds * iterations * train.collect * agent.num_envs
    return Case(what, size, steps, start, run)


def muzero() -> list[Case]:
    cases, env, go = [], envs.make("CartPole-v1"), envs.make("Go9x9-pgx")
    for simulations in (16, 32):
        fields = {"simulations": simulations}
        flat = agents.make("muzero", env, **fields)
        grid = agents.make("muzero", go, "board", body="resnet", depth=64, **fields)
        cases += [searches(agent, batch) for agent in (flat, grid) for batch in (64, 512, 4096)]
    for num_envs in (32, 256, 2048):
        agent = agents.make("muzero", env, num_envs=num_envs, capacity=1_000_000)
        size = {"environments": num_envs}
        cases.append(training("CartPole-v1, learning: steps", size, agent, env, 1, 4))
    for seeds in (8, 64):
        agent, size = agents.make("muzero", env), {"environments": 32, "seeds": seeds}
        cases.append(training("CartPole-v1, learning: steps", size, agent, env, seeds, 4))
    for num_envs in (64, 512):
        fields = {"num_envs": num_envs, "capacity": 200_000, "body": "resnet", "depth": 64}
        agent, size = agents.make("muzero", go, "board", **fields), {"environments": num_envs}
        cases.append(training("Go9x9-pgx, learning: steps", size, agent, go, 1, 4))
    return cases


def searches(agent, batch: int) -> Case:
    def start():
        observation = jnp.zeros((batch, *agent.spec.observation.shape))
        world = agent.world.init(jax.random.key(0))
        return world, jax.random.key(1), agent.world.represent(world, observation)

    what = f"{agent.spec.name}, n {agent.simulations}: simulations"
    number = batch * agent.simulations
    return Case(what, {"batch": batch}, number, start, lambda given: by_agent(agent, *given))


def ensemble() -> list[Case]:
    spec = halfcheetah()
    cases = [rollouts(MBPO(spec, rollouts=rows)) for rows in (1_000, 10_000, 100_000)]
    for seeds in (1, 16, 64):
        agent = SAC(spec, capacity=20_000)
        cases.append(updates("SAC: updates", {"seeds": seeds}, agent, filled, seeds))
    for preset, sizes in (("xs", (1, 32, 1024)), ("paper", (1, 32))):
        agent = PETS(spec, **PETS.PRESETS[preset])
        cases += [plans(f"PETS {preset}: plans", agent, size) for size in sizes]
    return cases


def transitions(spec, count: int, key) -> Transition:
    """Noise in the shape of experience."""
    keys = jax.random.split(key, 4)
    seen, after = jax.random.normal(keys[0], (2, count, *spec.observation.shape))
    action = jax.random.uniform(keys[1], (count, *spec.action.shape), minval=-1.0)
    return Transition(
        seen, action, jax.random.normal(keys[2], (count,)), jnp.zeros(count, bool), after
    )


def filled(agent, key):
    """The state of an agent that learns from transitions, with enough of them."""
    state = agent.init(key)
    return state.replace(replay=ring.add(state.replay, transitions(agent.spec, 10_000, key)))


def rollouts(agent) -> Case:
    """Steps of all rollouts, one each, with the policy and into the imagined replay."""

    def run(state):
        return agent.branch(state, jax.random.key(1), 1)

    start = partial(filled, agent, jax.random.key(0))
    return Case("MBPO: rollouts", {"batch": agent.rollouts}, agent.rollouts, start, run)


def plans(what: str, agent, batch: int) -> Case:
    def run(given):
        params, timestep, memory = given
        return agent.act(params, jax.random.key(2), timestep, memory, explore=True)

    return Case(what, {"environments": batch}, batch, partial(beginning, agent, batch), run)


def world_models() -> list[Case]:
    env = envs.make("CarTrack-v0")
    cases = [frames(env, num_envs) for num_envs in (64, 512, 4096)]
    cases += [pictures(env, batch) for batch in (100, 1000)]
    return cases + [dreams(env, population) for population in (64, 512)]


def frames(env, num_envs: int, steps: int = 20) -> Case:
    """Steps of the environment with random actions, a picture each."""
    keys = partial(jax.random.split, num=num_envs)

    def start():
        return jax.vmap(env.reset)(keys(jax.random.key(0)))[0]

    def run(state):
        def step(state, key):
            act_key, env_key = jax.random.split(key)
            shape = (num_envs, *env.spec.action.shape)
            action = jax.random.uniform(act_key, shape, minval=-1.0)
            state, timestep, _ = jax.vmap(env.step)(keys(env_key), state, action)
            return state, timestep.observation.mean()  # so that every picture is drawn

        return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), steps))[1]

    number, size = steps * num_envs, {"environments": num_envs}
    return Case(f"{env.name}: frames", size, number, start, run)


def pictures(env, batch: int) -> Case:
    fields = {"pictures": 20_000, "capacity": 100_000, "vision_batch": batch}
    agent = agents.make("world-models", env, "paper-driving", **fields)

    def start():
        state = agent.init(jax.random.key(0))
        shown = jax.random.bits(jax.random.key(1), (2_000, *env.spec.observation.shape), jnp.uint8)
        return state.replace(pictures=ring.add(state.pictures, shown))

    def run(state):
        keys = jax.random.split(jax.random.key(2), UPDATES)
        return jax.lax.scan(agent.learn_vision, state, keys)[0].params

    return Case("V, learning: pictures", {"batch": batch}, UPDATES * batch, start, run)


def dreams(env, population: int, steps: int = 100) -> Case:
    """Of candidates with 16 episodes each, in a world that knows of no ends yet."""
    fields = {"population": population, "dreamt_steps": steps, "done": False}
    fields |= {"pictures": 6_400, "capacity": 100_000}
    agent = agents.make("world-models", env, "paper-driving", **fields)

    def start():
        state = agent.init(jax.random.key(0))
        codes = state.codes
        return state.replace(codes=codes.replace(head=jnp.full_like(codes.head, 1_000)))

    def run(state):
        candidates = jnp.zeros((population, agent.evolution.dims))
        return agent.fitness(state, jax.random.key(1), candidates, agent.episodes)

    number = population * agent.episodes * steps
    return Case("M, dreamt: steps", {"dreams": population * agent.episodes}, number, start, run)


PARTS = {
    "dreamer": dreamer,
    "muzero": muzero,
    "ensemble": ensemble,
    "world-models": world_models,
}

if __name__ == "__main__":
    main()
