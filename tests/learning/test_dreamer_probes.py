"""Dreamer on the smallest environments that show one fault each, their optimum known."""

import jax
import numpy as np
import pytest

from dreamerzero import agents, envs, ops, training
from dreamerzero.envs import probes

SMALL = {
    "num_envs": 8,
    "batch_size": 8,
    "batch_length": 16,
    "train_ratio": 32.0,
    "capacity": 20_000,
    "imagination": 5,
    "deter": 32,
    "hidden": 32,
    "stoch": 4,
    "classes": 4,
    "blocks": 4,
    "units": 32,
    "bins": 41,
    "bin_limit": 5.0,
    "horizon": 10.0,
    "learning_rate": 3e-3,
}


@pytest.mark.parametrize(
    ("probe", "fields"),
    [
        # Without stored latents, windows that begin behind the cue hide what it is for: two seeds
        # of five then settle on one action before they have learnt to remember.
        (probes.MemoryProbe(), {"stored_latents": True}),
        (probes.ContinuousActionProbe(), {"learning_rate": 1e-3}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_behaviour_comes_near_the_optimum(probe, fields):
    """Near: one latent in a hundred is drawn from the uniform share, and can show the other cue."""
    env = envs.make(probe)
    agent = agents.make("dreamer", env, "xs", **(SMALL | fields))
    state, _ = training.train(agent, env, jax.random.key(0), steps=8000)
    returns = training.evaluate(agent, state.agent.params, env, jax.random.key(1), episodes=256)
    assert returns.mean() >= 0.9  # without memory 0.5, without seeing the cue 0.75


@pytest.mark.parametrize("probe", [probes.TruncationProbe(), probes.BothEndsProbe()])
def test_a_time_limit_is_not_an_end_and_an_end_at_the_limit_is(probe):
    """V = 1 / (1 − γ) for ever: an agent that takes the cut after ten steps for the end learns
    about half of it; one that bootstraps past an end that falls on the limit learns too much."""
    env = envs.make(probe)
    agent = agents.make("dreamer", env, "xs", **SMALL)
    state, _ = training.train(agent, env, jax.random.key(0), steps=8000)
    params = state.agent.params
    _, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 32))
    memory = agent.act(params, jax.random.key(2), timestep, agent.memory(32), explore=False).memory
    logits = agent.critic.apply(params["critic"], memory.latent.features)
    value = ops.two_hot_mean(logits, ops.symexp_bins(agent.bins, agent.bin_limit)).mean()
    np.testing.assert_allclose(value, probe.values(1 - 1 / SMALL["horizon"])[0], rtol=0.1)
