"""How far can an ensemble be trusted? Its error, and its own doubts, over the length of a rollout.

An ensemble of MBPO's sizes learns from random actions, and then foretells what other actions, from
states it has not seen, lead to: 32 sampled rollouts each, by one member alone, by another member at
every step (TS1), and by one member for each rollout (TS∞); after little and after more experience.
Errors are root mean squares of the mean rollout, in standard deviations of each number that is
observed; coverage is how often the truth lies between the 5th and the 95th percentile of the
samples, which should be .9; CRPS scores the samples as a distribution, in the same units: the
smaller, the better it is calibrated and the sharper (Gneiting & Raftery 2007, eq. 21).

    python benchmarks/ensemble_errors.py
"""

from __future__ import annotations

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from common import RESULTS, arguments, report

import dreamerzero as dz
from dreamerzero.types import Transition
from dreamerzero.worlds.ensemble import Ensemble, Latent

ENVS = {"Pendulum-v1": 1, "CartPoleSwingup-v0": 2}  # and how often an action is repeated
SHOWN = (1, 2, 4, 8, 16, 30)
HORIZON, SEQUENCES, SAMPLES, SEEDS = 30, 128, 32, 3
LEARNT, STREAMS = (5, 50), 40  # steps of so many streams: 200 and 2,000 transitions
KINDS = {"one member": ("tsinf", 1), "TS1": ("ts1", 5), "TS∞": ("tsinf", 5)}


@partial(jax.jit, static_argnames=("num_envs", "steps"))
def wander(env, key, num_envs: int, steps: int) -> Transition:
    """Random actions, each held for a few steps so that they lead somewhere, `[T, B, ...]`."""

    def step(carry, key):
        state, timestep, held = carry
        change_key, action_key, step_key = jax.random.split(key, 3)
        fresh = jax.random.uniform(action_key, held.shape, minval=-1.0, maxval=1.0)
        change = jax.random.bernoulli(change_key, 0.3, (num_envs, 1))
        action = jnp.where(change, fresh, held)
        keys = jax.random.split(step_key, num_envs)
        state, after, outcome = jax.vmap(env.step)(keys, state, action)
        seen = timestep.observation, action, outcome.reward, outcome.terminated, outcome.observation
        return (state, after, action), Transition(*seen)

    state, timestep = jax.vmap(env.reset)(jax.random.split(key, num_envs))
    start = state, timestep, jnp.zeros((num_envs, *env.spec.action.shape))
    return jax.lax.scan(step, start, jax.random.split(key, steps))[1]


@partial(jax.jit, static_argnames="world")
def learn(world, data, key):
    params = world.init(key)
    optimiser = world.optimiser.init(params.members)
    return world.fit(params, optimiser, key, data, len(data.reward))


@partial(jax.jit, static_argnames="world")
def foretell(world, params, key, truth):
    """Samples `[SAMPLES, T, B, N]` of what the actions of `truth [T, B, ...]` lead to."""

    def once(key):
        def step(latent, inputs):
            key, action = inputs
            _, latent = world.step(params, key, action, latent)
            return latent, latent.observation

        nobody = jnp.full(SEQUENCES, -1, jnp.int32)
        start = Latent(truth.observation[0], nobody)
        return jax.lax.scan(step, start, (jax.random.split(key, HORIZON), truth.action))[1]

    return jax.vmap(once)(jax.random.split(key, SAMPLES))


def crps(samples, truth):
    """Of every number `[...]`, from `samples [S, ...]`: E|X − x| − ½ E|X − X′|, without bias."""
    count = len(samples)
    spread = np.tensordot(2 * np.arange(1, count + 1) - count - 1, np.sort(samples, axis=0), 1)
    return np.abs(samples - truth).mean(axis=0) - spread / (count * (count - 1))


def measure(name: str, repeat: int, steps: int, seed: int) -> dict[str, np.ndarray]:
    """Error, coverage and CRPS of each kind of rollout at every length, `[3, HORIZON]`."""
    env = dz.make_env(name, action_repeat=repeat)
    learn_key, fit_key, test_key, dream_key = jax.random.split(jax.random.key(seed), 4)
    data = wander(env, learn_key, STREAMS, steps)
    data = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), data)
    world = Ensemble(spec=env.spec, termination=env.spec.termination)
    params, _, _ = learn(world, data, fit_key)
    truth = wander(env, test_key, SEQUENCES, HORIZON)
    scale = np.asarray(data.observation.std(axis=0))
    found = {}
    for kind, (particles, elites) in KINDS.items():
        asked = world.replace(particles=particles, elites=elites)
        samples = foretell(asked, params.replace(elites=params.elites[:elites]), dream_key, truth)
        samples, after = np.asarray(samples) / scale, np.asarray(truth.next_observation) / scale
        error = np.sqrt(np.mean((samples.mean(axis=0) - after) ** 2, axis=(1, 2)))
        low, high = np.percentile(samples, [5, 95], axis=0)
        covered = ((low <= after) & (after <= high)).mean(axis=(1, 2))
        found[kind] = np.stack([error, covered, crps(samples, after).mean(axis=(1, 2))])
    return found


def main():
    arguments()
    rows, curves = [], {}
    for (name, repeat), steps in itertools.product(ENVS.items(), LEARNT):
        runs = [measure(name, repeat, steps, seed) for seed in range(SEEDS)]
        learnt = STREAMS * steps
        kinds = {kind: np.mean([run[kind] for run in runs], axis=0).tolist() for kind in KINDS}
        curves[f"{name}, {learnt:,} steps"] = kinds
        for kind, (error, covered, score) in kinds.items():
            growth = (error[9] / error[0]) ** (1 / 9)
            row = {"env": name, "learnt": learnt, "asked": kind, "growth a step, to 10": growth}
            row |= {f"error {k}": error[k - 1] for k in SHOWN}
            row |= {f"coverage {k}": covered[k - 1] for k in SHOWN}
            rows.append(row | {f"CRPS {k}": score[k - 1] for k in SHOWN})
    report("ensemble_errors", rows, curves=curves)
    draw(curves)


def draw(curves):
    fig, axes = plt.subplots(3, len(curves), figsize=(13, 7), sharex=True)
    for (name, kinds), (above, middle, below) in zip(curves.items(), axes.T):
        for kind, (error, covered, score) in kinds.items():
            above.semilogy(range(1, HORIZON + 1), error, label=kind)
            middle.plot(range(1, HORIZON + 1), covered, label=kind)
            below.semilogy(range(1, HORIZON + 1), score, label=kind)
        middle.axhline(0.9, color="grey", linestyle=":")
        middle.set(ylim=(0, 1.05))
        above.set_title(name, fontsize="medium")
        below.set(xlabel="steps k of a rollout")
    axes[0, 0].set(ylabel="error (standard deviations)")
    axes[1, 0].set(ylabel="share of truths within 90 %")
    axes[2, 0].set(ylabel="CRPS (standard deviations)")
    axes[0, 0].legend(frameon=False)
    fig.tight_layout()
    fig.savefig(RESULTS / "ensemble_errors.png", dpi=120)


if __name__ == "__main__":
    main()
