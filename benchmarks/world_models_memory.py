"""Does M foretell what V will see, and when an episode ends? On episodes that nobody learnt from.

For every run of `world_models_learning.py`, by its first seed, how likely M finds the z that came,
in nats for each number of it (less is better), beside two that say less: one normal of the mean
and the variance that M's samples have, and one around the z before, as wide as z usually changes.
And for every degree of certainty with which M foretold an end: how often one came.

    python benchmarks/world_models_memory.py
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from common import arguments, report
from jax.scipy.stats import norm
from learning import RUNS, recorded
from world_models_learning import TASKS

import dreamerzero as dz
from dreamerzero.agents.world_models import ROLLOUT
from dreamerzero.training import program
from dreamerzero.types import Phase
from dreamerzero.worlds.vision_memory import Code

NUM_ENVS, STEPS, SAMPLES = 64, 500, 1_000
CERTAINTIES = (0.001, 0.01, 0.1, 0.3, 0.6)  # between degrees


@partial(jax.jit, static_argnums=1)
def collect(agent, env, params):
    """Frames `[T, B, ...]` of new episodes, with noise on what the controller does."""
    state = program.start(agent, env, jax.random.key(1))
    state = state.replace(agent=state.agent.replace(params=params))
    phase = Phase("collect", STEPS // ROLLOUT, ROLLOUT, learn="")
    state, _ = program.complete(agent, env, phase, state)
    codes = state.agent.codes
    return jax.tree.map(lambda leaf: leaf[:, :STEPS].swapaxes(0, 1), codes.frames)


@jax.jit
def foretell(agent, params, frames):
    """Of each frame but the last: log likelihoods of the next z, `[T − 1, B, Z]` for M's normal and
    for that around the z before; how likely an end is, `[T − 1, B]`. And M's own loss."""
    world, code = agent.world, Code.of(frames.observation)
    loss = world.memory_loss(params, jax.random.key(2), frames, code)[1]
    z_key, step_key = jax.random.split(jax.random.key(3))
    z = code.sample(z_key)

    def step(carry, now):
        latent, action = carry
        latent = world.follow(params, latent, action, now["z"], now["first"])
        outcome, dreamt = jax.vmap(lambda key: world.step(params, key, now["action"], latent))(
            jax.random.split(now["key"], SAMPLES)
        )
        density = norm.logpdf(now["next"], dreamt.z.mean(axis=0), dreamt.z.std(axis=0))
        return (latent, now["action"]), (density, 1.0 - outcome.discount[0])

    within = ~frames.is_first[1:, :, None]
    change = jnp.sqrt(jnp.mean(jnp.square(z[1:] - z[:-1]), axis=(0, 1), where=within))
    sequence = {
        "z": z[:-1],
        "next": z[1:],
        "first": frames.is_first[:-1],
        "action": frames.action[:-1],
        "key": jax.random.split(step_key, len(z) - 1),
    }
    start = world.initial(z.shape[1]), jnp.zeros_like(frames.action[0])
    _, (density, end) = jax.lax.scan(step, start, sequence)
    return loss, density, norm.logpdf(z[1:], z[:-1], change), end


def measure(run_dir) -> tuple[dict, list[dict]]:
    agent, params, env = dz.load(run_dir)
    agent = agent.replace(
        num_envs=NUM_ENVS,
        pictures=NUM_ENVS * ROLLOUT,
        capacity=NUM_ENVS * 2 * STEPS,
        temperature=1.0,  # as M has learnt, whatever it dreams at
    )
    frames = collect(agent, env, params)
    loss, normal, copied, end = foretell(agent, params["world"], frames)
    within = np.asarray(~frames.is_first[1:])
    came, end = np.asarray(frames.is_terminal[1:])[within], np.asarray(end)[within]
    row = {
        "env": env.name,
        "mixture": float(loss["loss/latent"]),
        "one normal": -float(np.asarray(normal)[within].mean()),
        "the z before": -float(np.asarray(copied)[within].mean()),
        "ends foretold": float(end.mean()),
        "ends that came": float(came.mean()),
    }
    degree = np.digitize(end, CERTAINTIES)
    ends = [
        {
            "steps": int(np.sum(degree == number)),
            "foretold": float(end[degree == number].mean()),
            "came": float(came[degree == number].mean()),
        }
        for number in np.unique(degree)
    ]
    return row, ends


def main():
    arguments()
    runs = [run for task in TASKS if (run := RUNS / task.name).exists()]
    if not runs:
        raise SystemExit(f"No run in {RUNS}: first python benchmarks/world_models_learning.py")
    rows = {row["env"]: row for row in recorded("world_models_memory", "rows") or []}
    ends = recorded("world_models_memory", "ends")
    for run in runs:
        row, degrees = measure(run)
        rows[row["env"]], ends[row["env"]] = row, degrees
    report("world_models_memory", list(rows.values()), ends=ends)


if __name__ == "__main__":
    main()
