"""What is a controller worth that was evolved in colder or hotter dreams? Inside, and outside.

In the V and M of a finished run of World Models on TakeCover-v0, controllers are evolved anew, one
for each temperature τ, with that run's sizes. Each then plays 100 real episodes. The run is the
first seed of `python benchmarks/world_models_learning.py`, unless another folder is named.

    python benchmarks/dream_temperature.py
    python benchmarks/dream_temperature.py runs/takecover
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np
from common import report

import dreamerzero as dz
from dreamerzero.training import checkpoints, config

RUN = Path("runs/learning/world-models-TakeCover-v0")
TEMPERATURES = (0.1, 0.5, 1.0, 1.15, 1.3)
EPISODES = 100


def main(run_dir: Path):
    agent, learnt, env = awake(run_dir)
    rows = []
    for temperature in TEMPERATURES:
        dreamer = agent.replace(temperature=temperature)
        state, evolve = learnt, jax.jit(dreamer.evolve)
        for number in range(agent.generations // agent.check_every):
            state, metrics = evolve(state, jax.random.key(number))
        outside = dz.evaluate(dreamer, state.params, env, jax.random.key(0), EPISODES)
        rows.append(
            {
                "temperature": temperature,
                "in the dream": float(metrics["dream_return_champion"]),
                "outside": float(np.mean(outside)),
                "sd of an episode": float(np.std(outside)),
            }
        )
        report("dream_temperature", rows)  # so far


def awake(run_dir: Path):
    """The agent of a run, what it has learnt but for its controller, and its environment."""
    settings = config.read(run_dir)
    agent, env = config.build(settings)
    shapes = config.shapes(settings, agent, env).agent
    world, codes = (
        checkpoints.restore(config.last_checkpoint(run_dir), template, at=f".state.agent.{name}")
        for template, name in (
            (shapes.params["world"], "params['world']"),
            (shapes.codes, "codes"),
        )
    )
    world, codes = jax.tree.map(lambda leaf: leaf[0], (world, codes))
    state = jax.jit(agent.init)(jax.random.key(0))
    return agent, state.replace(params=state.params | {"world": world}, codes=codes), env


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else RUN)
