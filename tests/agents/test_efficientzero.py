import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import agents, envs, training
from dreamerzero.envs import probes
from dreamerzero.types import UsageError
from tests.agents.test_muzero import SMALL, frames


def small(env, **fields):
    return agents.make("efficientzero", env, **(SMALL | fields))


def test_the_older_a_window_the_sooner_its_values_are_bootstrapped():
    """Against a loop, with values of a world that is not zero everywhere."""
    agent = small(envs.make("CartPole-v1"), off_policy=1.5)
    state = jax.jit(agent.init)(jax.random.key(0))
    slow = jax.tree.map(
        lambda leaf: leaf + 0.5 * jax.random.normal(jax.random.key(1), leaf.shape),
        state.params["slow"],
    )
    state = state.replace(params=state.params | {"slow": slow})
    seen = frames(agent.batch_length, 64, 2)
    age = 400 * np.arange(64)
    found = jax.jit(agent.targets)(state, seen, jax.random.key(2), jnp.asarray(age)).value
    values = agent.world.evaluate(slow, agent.world.represent(slow, seen.observation))[1]

    shares = 1.5 * agent.num_envs * age / 100_000
    steps = [max(1, agent.td_steps - int(agent.td_steps * share)) for share in shares]
    assert set(steps) == {*range(1, agent.td_steps + 1)}
    for b in range(64):
        for k in range(agent.unroll + 1):
            if seen.is_last[: k + 1, b].any():
                continue
            g, t = 0.0, k
            for i in range(steps[b]):
                t += 1
                g += agent.discount**i * float(seen.reward[t, b])
                if seen.is_last[t, b]:
                    break
            g += agent.discount ** (t - k) * float(values[t, b]) * (not seen.is_terminal[t, b])
            np.testing.assert_allclose(found[k, b], g, rtol=1e-4, atol=1e-4)


class ActionsProbe(probes.ActionProbe):
    """Three steps, each with reward 1 for the action that is shown, else 0."""

    length = 3
    num_symbols = 6

    def symbol(self, state):
        return 2 * state.time + state.cue


def test_behaviour_comes_to_the_optimum_and_rewards_are_learnt_through_their_sums():
    env = envs.make(ActionsProbe())
    agent = small(env, train_ratio=64.0, prefix=2)
    state, _ = training.train(agent, env, jax.random.key(0), steps=3000)
    params = state.agent.params
    returns = training.evaluate(agent, params, env, jax.random.key(1), episodes=64)
    assert returns.mean() == 3.0

    cue = jnp.array([0, 1])
    observation = params["observation"].normalise(jax.nn.one_hot(cue, 6))
    latent = agent.world.represent(params["slow"], observation)
    prediction, _ = agent.world.step(params["slow"], None, 1 - cue, latent)
    np.testing.assert_allclose(prediction.reward, 0.0, atol=0.2)
    for _ in range(3):  # with a reset after the second
        prediction, latent = agent.world.step(params["slow"], None, cue, latent)
        np.testing.assert_allclose(prediction.reward, 1.0, atol=0.2)


@pytest.mark.parametrize("part", ["consistency", "reconstruction"])
def test_a_weight_below_nothing_is_refused(part):
    with pytest.raises(UsageError, match=f"{part} is 0 or more"):
        small(envs.make("Catch-bsuite"), **{part: -1.0})
