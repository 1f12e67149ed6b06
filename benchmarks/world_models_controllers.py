"""What is a controller worth that was evolved in other dreams, or that sees less?

In the V and M of a finished run of World Models, the first seed of its learning task, controllers
are evolved anew, and then play 100 real episodes:

- TakeCover-v0: in dreams of at most 1,000 steps, one for each temperature τ. In cold dreams a
  controller exploits what M overlooks.
- CarTrack-v0: in the real environment, by two searches each, one that sees V's code z alone, one
  that has a hidden layer for it, one that sees M's hidden state h too, and one that sees that of an
  M that learnt nothing. A search takes three minutes of an H100, 2.5 hours of two cores.

    python benchmarks/world_models_learning.py               # the runs
    python benchmarks/world_models_controllers.py            # of all that are there
    python benchmarks/world_models_controllers.py CarTrack-v0
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from common import arguments, report
from learning import RUNS, recorded

import dreamerzero as dz
from dreamerzero.training import checkpoints, config

EPISODES = 100
REAL = {
    "real_generations": 1000,
    "population": 32,
    "episodes": 8,
    "check_every": 50,
    "check_episodes": 64,
}
SEARCHES = {"TakeCover-v0": 1, "CarTrack-v0": 2}
CONTROLLERS = {
    "TakeCover-v0": {f"τ = {tau}": {"temperature": tau} for tau in (0.1, 0.5, 1.0, 1.15, 1.3)},
    "CarTrack-v0": {
        "z": {"sees": "z"} | REAL,
        "z, 40 hidden units": {"sees": "z", "hidden": 40} | REAL,
        "z, h": REAL,
        "z, h of an M that was not trained": {"memory_updates": 0} | REAL,
    },
}


def main(names):
    rows = recorded("world_models_controllers", "rows") or []
    for name in names:
        rows = [row for row in rows if row["env"] != name]
        for controller, fields in CONTROLLERS[name].items():
            for search in range(SEARCHES[name]):
                row = {"env": name, "controller": controller, "search": search}
                rows.append(row | measure(name, fields, search))
                report("world_models_controllers", rows)  # so far


def run_of(name: str):
    return RUNS / f"world-models-{name}"


def measure(name: str, fields: dict, search: int) -> dict:
    agent, state, env = awake(run_of(name), fields)
    place = "real" if agent.real_generations else "dream"
    evolve = jax.jit(agent.evolve, static_argnames="place")
    generations = agent.real_generations or agent.generations
    for number in range(generations // agent.check_every):
        state, metrics = evolve(state, jax.random.key(1000 * search + number), place=place)
    returns = dz.evaluate(agent, state.params, env, jax.random.key(0), EPISODES)
    return {
        "evolved with": float(metrics[f"{place}_return_champion"]),
        "outside": float(np.mean(returns)),
        "sd of an episode": float(np.std(returns)),
    }


def awake(run_dir, fields: dict):
    """The agent of a run, with other `fields`; what it learnt but for its controller; its env."""
    settings = config.read(run_dir)
    learner, params, env = config.load(run_dir)
    codes = config.shapes(settings, learner, env).agent.codes
    codes = checkpoints.restore(config.last_checkpoint(run_dir), codes, at=".state.agent.codes")
    agent, _ = config.build(dataclasses.replace(settings, fields=settings.fields | fields))
    state = jax.jit(agent.init)(jax.random.key(0))
    world = state.params["world"] | {"vision": params["world"]["vision"]}
    if agent.memory_updates:
        world = params["world"]
    codes = jax.tree.map(lambda leaf: leaf[0], codes)
    return agent, state.replace(params=state.params | {"world": world}, codes=codes), env


if __name__ == "__main__":
    main(arguments("CONTROLLER", "*") or [name for name in CONTROLLERS if run_of(name).exists()])
