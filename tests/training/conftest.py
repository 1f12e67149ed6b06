import jax
import numpy as np
import pytest

from dreamerzero import envs
from dreamerzero.envs.probes import MemoryProbe
from dreamerzero.training import config as configs
from tests.toy import Toy

STEPS = 1000


@pytest.fixture(scope="session")
def env():
    return envs.make(MemoryProbe())


@pytest.fixture(scope="session")
def agent(env):
    return Toy(spec=env.spec)


@pytest.fixture(scope="session")
def make_config(agent, env):
    def make(**changes):
        settings = {"steps": STEPS, "seed": 3, "num_seeds": 2} | changes
        return configs.make(
            "toy", settings.pop("agent", agent), settings.pop("env", env), **settings
        )

    return make


@pytest.fixture(scope="session")
def same():
    """Whether two pytrees agree in every bit."""

    def plain(leaf):
        key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if key else leaf)

    def same(a, b):
        a, b = (jax.tree.map(plain, tree) for tree in (a, b))
        return jax.tree.all(
            jax.tree.map(lambda x, y: x.dtype == y.dtype and x.tobytes() == y.tobytes(), a, b)
        )

    return same
