"""Names, instances and `module:Class` give environments; all else gives one clear sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from dreamerzero import envs
from dreamerzero.envs.probes import ConstantProbe, TruncationProbe
from dreamerzero.types import Box, Discrete, UsageError


class WrongShape(ConstantProbe):
    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (3,))


class DictObservation(ConstantProbe):
    def observation_space(self, params):
        return spaces.Dict({"symbol": spaces.Discrete(1)})


class Unbounded(ConstantProbe):
    def action_space(self, params=None):
        return spaces.Box(-jnp.inf, jnp.inf, (1,))


class Lopsided(ConstantProbe):
    """Rewards with the action that arrives, between bounds that differ."""

    num_actions = 2

    def action_space(self, params=None):
        return spaces.Box(jnp.array([0.0, -10.0]), jnp.array([1.0, 30.0]), (2,))

    def reward(self, state, action):
        return action[0] + 100 * action[1]


def test_a_name_gives_one_instance():
    assert envs.make("CartPole-v1") is envs.make("CartPole-v1")
    assert envs.make("CartPole-v1").spec.action == Discrete(2)
    assert envs.make("Pendulum-v1").spec.action == Box((1,), "float32", -1.0, 1.0)
    assert set(envs.names()) >= {"CartPole-v1", "CartPoleSwingup-v0", "Catch-bsuite"}


@pytest.mark.parametrize(
    ("name", "observation"),
    [
        ("FourRooms-misc", Box((4,), "int32", 0.0, 1.0)),  # its space says float32
        ("FrozenLake-misc", Discrete(64)),
        ("Breakout-MinAtar", Box((10, 10, 4), "bool", 0.0, 1.0)),  # a byte each, not four
        ("Pong-misc", Box((30, 40, 3), "bool", 0.0, 1.0)),  # its space says up to 2
    ],
)
def test_observations_keep_their_own_dtype(name, observation):
    env = envs.make(name)
    _, timestep = env.reset(jax.random.key(0))
    assert timestep.observation.shape == env.spec.observation.shape == observation.shape
    assert timestep.observation.dtype == env.spec.observation.dtype == observation.dtype
    assert type(env.spec.observation) is type(observation)


def test_an_environment_of_ones_own():
    env = envs.make(TruncationProbe())
    assert env.name == "dreamerzero.envs.probes:TruncationProbe"
    assert envs.make(env) is env
    # The name rebuilds it.
    assert envs.make(env.name).spec == env.spec


def test_continuous_actions_are_scaled_and_clipped():
    env = envs.make(Lopsided())
    assert env.spec.action == Box((2,), "float32", -1.0, 1.0)
    state, _ = env.reset(jax.random.key(0))
    for action, reward in [
        ([-1.0, -1.0], -1000.0),
        ([1.0, 1.0], 3001.0),
        ([0.0, 0.0], 1000.5),
        ([5.0, -7.0], -999.0),
    ]:
        _, _, successor = env.step(jax.random.key(0), state, jnp.array(action))
        np.testing.assert_allclose(successor.reward, reward, rtol=1e-6)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("CartPol-v1", "Unknown environment 'CartPol-v1'. Nearest: CartPole-v1"),
        ("CartpoleSwingup", "CartPoleSwingup-v0"),
        ("@", "`dreamerzero envs` lists all"),
        ("MNISTBandit-bsuite", "never downloads data"),
        (7, "a name, module:Class or a gymnax Environment; got 7"),
        (WrongShape(), r"of shape \(1,\), but observation_space declares \(3,\)"),
        (DictObservation(), "only Box and Discrete are supported"),
        (Unbounded(), "not finite"),
        ("no.such.module:Env", "No module named 'no'"),
        ("dreamerzero.envs.probes:NoProbe", "has no attribute 'NoProbe'"),
        ("dreamerzero.types:EnvSpec", "missing 3 required positional arguments"),
    ],
)
def test_mistakes_are_explained(env, message):
    with pytest.raises(UsageError, match=message):
        envs.make(env)


def test_module_and_class_must_name_an_environment():
    with pytest.raises(UsageError, match="collections:OrderedDict"):
        envs.make("collections:OrderedDict")
