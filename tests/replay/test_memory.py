"""Bytes are counted before allocation, and too many are refused with the numbers."""

import jax
import jax.numpy as jnp
import pytest

from dreamerzero.replay import memory, ring
from dreamerzero.types import UsageError


class Accelerator:
    device_kind = "Imaginary 1000"

    def memory_stats(self):
        return {"bytes_limit": 10 * 2**30, "bytes_in_use": 2 * 2**30}


def test_bytes_of_shapes_are_those_of_arrays():
    def make():
        frame = {"pixels": jnp.zeros((64, 64, 3), jnp.uint8), "reward": 0.0, "done": False}
        return ring.init(frame, 100), jax.random.key(0)

    arrays = make()
    assert memory.nbytes(jax.eval_shape(make)) == memory.nbytes(arrays)
    assert memory.nbytes(arrays) == 100 * (64 * 64 * 3 + 4 + 1) + 4 + 8


def test_an_accelerators_free_memory_counts(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [Accelerator()])
    memory.require(8 * 2**30, "The run")
    with pytest.raises(UsageError) as error:
        memory.require(8 * 2**30 + 2**29, "The run (replay 8.4 GiB)")
    assert str(error.value) == (
        "The run (replay 8.4 GiB) needs 8.5 GiB, but the device (Imaginary 1000) has only "
        "8.0 GiB free. "
        "Lower the replay's capacity, the batch or the model, or train fewer seeds at a time."
    )


def test_on_the_cpu_the_hosts_memory_counts():
    device = jax.devices("cpu")[0]
    assert 2**26 < memory.available(device) < 2**44
    with pytest.raises(UsageError, match="TiB"):
        memory.require(2**50, "A petabyte")


def test_a_containers_limit_counts(monkeypatch):
    monkeypatch.setattr(memory, "_container_limits", lambda: [2**20])
    assert memory.available(jax.devices("cpu")[0]) == 2**20


def test_outside_of_containers_nothing_else_does(monkeypatch):
    monkeypatch.setattr(memory, "_host_memory", lambda: 2**20)
    monkeypatch.setattr(memory, "_container_limits", list)
    assert memory.available(jax.devices("cpu")[0]) == 2**20


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (2**20 - 1, "1.0 MiB"),
     (5 * 2**30, "5.0 GiB"), (2**50, "1024.0 TiB")],
)  # fmt: skip
def test_readable(number, text):
    assert memory.readable(number) == text
