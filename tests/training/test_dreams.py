"""Dreams: in a world whose dynamics are known, what is foretold can be told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import environment, spaces

from dreamerzero import agents, envs
from dreamerzero.agents import sequences
from dreamerzero.agents.sequences import Memory
from dreamerzero.training import dreams
from dreamerzero.training.dreams import CONTEXT, HORIZONS, STEPS
from dreamerzero.types import ActorOutput, EnvSpec, Prediction, TimeStep, UsageError, static
from tests.toy import Toy

FIRST = jnp.array([0.0, 100.0])  # where the line begins, in its two coordinates


@struct.dataclass
class Place(environment.EnvState):
    position: jax.Array


class Line(environment.Environment):
    """Each action moves one way or the other, and pays the position it leads to."""

    def __init__(self, length, terminates=True):
        self.length, self.terminates = length, terminates

    @property
    def default_params(self):
        limit = 10_000 if self.terminates else self.length
        return environment.EnvParams(max_steps_in_episode=limit)

    def reset_env(self, key, params):
        return FIRST, Place(time=jnp.int32(0), position=FIRST)

    def step_env(self, key, state, action, params):
        position = state.position + _move(action)
        state = Place(time=state.time + 1, position=position)
        ends = self.terminates & (state.time >= self.length)
        return position, state, position[0], ends, {}

    def action_space(self, params):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Box(-1e6, 1e6, (2,))


def _move(action):
    return jnp.stack([2.0 * action - 1.0, 0.5 + 0.0 * action], axis=-1)


@struct.dataclass
class Known:
    """The line as a world: its latent is the position, which it misjudges by `bias` a step."""

    bias: jax.Array

    def step(self, params, key, action, latent):
        latent = latent + _move(action) + self.bias
        return Prediction(latent[..., 0], jnp.full(action.shape, 0.9)), latent

    def reconstruct(self, params, latent):
        return latent


@struct.dataclass
class Knower:
    """Knows the line; drifts to the right, one step in three to the left."""

    spec: EnvSpec = static()
    bias: float = 0.0
    horizon: float = 10.0

    @property
    def world(self):
        return Known(self.bias)

    def memory(self, batch_size):
        return Memory(jnp.zeros((batch_size, 2)), jnp.zeros(batch_size, jnp.int32))

    def act(self, params, key, timestep, memory, *, explore):
        assert not explore
        latent = sequences.see(self.spec, params, timestep.observation)
        action = self.greedy(params, key, latent)
        return ActorOutput(action, Memory(latent, action))

    def greedy(self, params, key, latent):
        return (jnp.round(2.0 * latent[..., 1]) % 3 > 0).astype(jnp.int32)

    def value(self, params, latent):
        return 2.0 * latent[..., 0] + 1.0


def known(length, *, terminates=True, **fields):
    env = envs.make(Line(length, terminates))
    params = {"world": None} | sequences.moments(env.spec)
    return Knower(env.spec, **fields), params, env


def test_a_world_that_knows_foretells_the_truth():
    agent, params, env = known(200)
    dream, imagined = dreams.dream(agent, params, env, jax.random.key(0), 3, futures=2)
    assert dream.observation.shape == (STEPS, 3, 2)
    assert dream.prediction.shape == imagined.observation.shape == (2, STEPS - CONTEXT, 3, 2)
    position = FIRST
    for frame in range(STEPS):
        np.testing.assert_allclose(dream.observation[frame, 0], position)
        position = position + _move(agent.greedy(params, None, position))
    for foretold in (dream.prediction, imagined.observation):
        np.testing.assert_allclose(foretold[1], dream.observation[CONTEXT:])
    np.testing.assert_allclose(dream.predicted_reward[0], dream.reward[CONTEXT:])
    np.testing.assert_allclose(dream.reconstruction, dream.observation)
    # The discount 0.9 is that of γ alone: the episode is believed to go on for ever.
    np.testing.assert_allclose(imagined.going_on, 1.0, rtol=1e-5)
    errors = dreams.errors(env.spec, params, dream)
    assert all(errors[f"{name}_error/45"] == 0 for name in ("prediction", "reconstruction"))


def test_errors_are_in_standard_deviations_and_copying_is_the_baseline():
    agent, params, env = known(200, bias=0.5)
    moments = params["observation"].update(jnp.array([[-2.0, 90.0], [2.0, 110.0]]))
    params = params | {"observation": moments}
    # Among standardised positions the moves it knows are too large, so that it errs.
    dream, _ = dreams.dream(agent, params, env, jax.random.key(0), 2, futures=1)
    errors = dreams.errors(env.spec, params, dream)
    scale = np.array([2.0, 10.0])
    for h in HORIZONS:
        truth = dream.observation[CONTEXT - 1 + h]
        assert errors[f"true_reward/{h}"] == truth[:, 0].mean()
        for name, shown in (
            ("prediction", dream.prediction[0, h - 1]),
            ("copy", dream.observation[CONTEXT - 1]),
        ):
            expected = np.sqrt(np.mean(((shown - truth) / scale) ** 2))
            np.testing.assert_allclose(errors[f"{name}_error/{h}"], expected, rtol=1e-4)


@pytest.mark.parametrize("terminates", [True, False])
def test_nothing_counts_after_the_end(terminates):
    agent, params, env = known(9, terminates=terminates)
    dream, _ = dreams.dream(agent, params, env, jax.random.key(0), 2, futures=1)
    assert dream.under_way[:10].all()
    assert not dream.under_way[10:].any()
    assert not dream.acted[9].any()  # the final frame, which no action follows
    np.testing.assert_allclose(dream.observation[9, 0], FIRST + 9 * jnp.array([1 / 3, 0.5]))
    metrics = dreams.measure(agent, params, env, jax.random.key(0), episodes=2)
    assert metrics["prediction_error/5"] == 0.0
    assert metrics["reward_error/5"] == 0.0
    assert np.isnan(metrics["reconstruction_error/5"])
    assert np.isnan(metrics["prediction_error/15"])


def test_values_beside_a_plain_loop():
    rng = np.random.default_rng(0)
    steps, batch, horizon = 12, 3, 10.0
    reward, latent = rng.normal(size=(steps, batch)), rng.normal(size=(steps, batch, 2))
    terminated, truncated = rng.uniform(size=(2, steps, batch)) < 0.15
    agent, params, _ = known(9, horizon=horizon)
    came = TimeStep(None, jnp.float32(reward), terminated, truncated, None)
    played = dreams.Rollout(None, None, jax.tree.map(jnp.asarray, came), jnp.float32(latent))
    value, returns, among = dreams.values(agent, params, played)

    expected = 2.0 * latent[..., 0] + 1.0
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    kept = np.ones((steps, batch), bool)
    achieved = np.zeros((steps, batch))
    for b in range(batch):
        for t in reversed(range(steps)):
            if t == steps - 1 or (truncated[t, b] and not terminated[t, b]):
                achieved[t, b], kept[t, b] = expected[t, b], False
            else:
                rest = 0.0 if terminated[t, b] else achieved[t + 1, b]
                achieved[t, b] = reward[t, b] + (1 - 1 / horizon) * rest
    np.testing.assert_array_equal(among, kept)
    np.testing.assert_allclose(returns, achieved, rtol=1e-4, atol=1e-5)

    a, b = expected[kept], achieved[kept]
    metrics = dreams.calibration(value, returns, among)
    np.testing.assert_allclose(metrics["value"], a.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["return"], b.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["value_error"], np.abs(a - b).mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["value_correlation"], np.corrcoef(a, b)[0, 1], rtol=1e-3)


def test_lanes_are_single_measurements():
    agent, params, env = known(200, bias=0.5)
    keys = jax.random.split(jax.random.key(0), 2)
    lanes = dreams.measure_lanes(
        agent, jax.tree.map(lambda x: jnp.stack([x, x]), params), env, keys
    )
    single = dreams.measure(agent, params, env, keys[1])
    for name, values in lanes.items():
        np.testing.assert_allclose(values[1], single[name], rtol=1e-5)


def test_who_can_dream():
    able = {name for name, kind in agents.AGENTS.items() if dreams.can_dream(kind)}
    assert {"planet", "dreamer"} <= able
    assert "dyna" not in able
    with pytest.raises(UsageError, match=r"toy has no world .* planet,.* dreamer"):
        dreams.require("toy", Toy, envs.make("CartPole-v1"))
