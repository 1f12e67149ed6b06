"""What is said of terminations is what the environments do, on random trajectories."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import envs
from dreamerzero.envs import terminations

GYMNAX = ["CartPole-v1", "CartPoleSwingup-v0", "MountainCarContinuous-v0", "Pendulum-v1"]
HOST = [name for name in terminations.TERMINATIONS if name not in GYMNAX]
NEVER = {
    name for name, function in terminations.TERMINATIONS.items() if function is terminations.never
}


@pytest.mark.parametrize("name", HOST)
def test_gymnasium_agrees(name):
    pytest.importorskip("mujoco")
    env = gymnasium.make(name)
    env.action_space.seed(0)
    before, _ = env.reset(seed=0)
    seen = []
    for step in range(600):
        action = env.action_space.sample()
        if step // 50 % 2:  # also in one direction, so that it falls in more ways
            action = env.action_space.high
        after, _, terminated, truncated, _ = env.step(action)
        seen.append((before, action, after, terminated))
        before = env.reset()[0] if terminated or truncated else after
    before, action, after, terminated = map(np.array, zip(*seen))
    said = terminations.termination(name)(*map(jnp.float32, (before, action, after)))
    assert said.shape == (600,) and said.dtype == bool
    np.testing.assert_array_equal(said, terminated)
    assert terminated.any() == (name not in NEVER)


@pytest.mark.parametrize("name", GYMNAX)
def test_gymnax_agrees(name):
    env = envs.make(name)
    assert env.spec.termination is terminations.termination(name)

    def step(carry, key):
        state, timestep = carry
        acted = action(timestep.observation, key)
        state, after, successor = env.step(key, state, acted)
        seen = timestep.observation, acted, successor.observation, successor.terminated
        return (state, after), seen

    def action(observation, key):
        if name == "MountainCarContinuous-v0":  # pushed along, or it never gets to the top
            return jnp.sign(observation[1:]) + (observation[1:] == 0)
        low, high, shape = (0, 2, ()) if name == "CartPole-v1" else (-1.0, 1.0, (1,))
        draw = jax.random.randint if name == "CartPole-v1" else jax.random.uniform
        return draw(key, shape, minval=low, maxval=high)

    keys = jax.random.split(jax.random.key(0), 400)
    before, acted, after, terminated = jax.jit(
        lambda: jax.lax.scan(step, env.reset(jax.random.key(1)), keys)[1]
    )()
    np.testing.assert_array_equal(env.spec.termination(before, acted, after), terminated)
    assert terminated.any() == (name not in NEVER)


FALLING = sorted(terminations.TERMINATIONS.keys() - NEVER - {"MountainCarContinuous-v0"})


@pytest.mark.parametrize("name", FALLING)
def test_a_dream_that_has_burst_is_over(name):
    burst = jnp.full((3, 4), jnp.nan)
    assert terminations.termination(name)(burst, burst, burst).all()


def test_the_unknown_is_to_be_learnt():
    assert terminations.termination("Acrobot-v1") is None
    assert envs.make("Acrobot-v1").spec.termination is None
    assert hash(envs.make("Pendulum-v1").spec) == hash(envs.make("Pendulum-v1").spec)
