import os

# Before JAX starts: devices that lanes are spread over.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")

import jax
import pytest

from dreamerzero.training.devices import cache_compilations

cache_compilations()  # compiling is most of what the tests do


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """A process holds only so many compiled programs (each maps memory of its own), then XLA dies
    with a segmentation fault. Those that are needed again come from the cache on disk."""
    yield
    jax.clear_caches()
