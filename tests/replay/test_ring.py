"""The item ring against a plain list."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamerzero.replay import ring
from dreamerzero.types import UsageError

CAPACITY = 7
EXAMPLE = {"pixels": jnp.zeros((2, 3), jnp.uint8), "reward": 0.0, "done": False}


def batch(start, number):
    index = jnp.arange(start, start + number)
    return {
        "pixels": jnp.tile(index[:, None, None], (1, 2, 3)).astype(jnp.uint8),
        "reward": index.astype(jnp.float32),
        "done": index % 2 == 0,
    }


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, CAPACITY), min_size=1, max_size=8))
def test_holds_the_last_items(numbers):
    state, seen = ring.init(EXAMPLE, CAPACITY), []
    for number in numbers:
        state = ring.add(state, batch(len(seen), number))
        seen += range(len(seen), len(seen) + number)
    kept = seen[-CAPACITY:]
    held = np.asarray(state.items["reward"])
    assert int(state.size) == len(kept)
    assert sorted(held[: len(kept)]) == kept
    # Fields of one item stay together, and nothing else is in a slot that was never written.
    np.testing.assert_array_equal(np.asarray(state.items["pixels"])[:, 0, 0], held.astype(int))
    np.testing.assert_array_equal(held[len(kept) :], 0)


def test_keeps_dtypes_and_draws_uniformly():
    state = ring.add(ring.init(EXAMPLE, CAPACITY), batch(1, 5))
    drawn = jax.jit(ring.sample, static_argnums=2)(state, jax.random.key(0), 20_000)
    assert {name: leaf.dtype for name, leaf in drawn.items()} == {
        "pixels": jnp.uint8,
        "reward": jnp.float32,
        "done": jnp.bool_,
    }
    assert drawn["pixels"].shape == (20_000, 2, 3)
    values, counts = np.unique(drawn["reward"], return_counts=True)
    np.testing.assert_array_equal(values, [1, 2, 3, 4, 5])
    np.testing.assert_allclose(counts / 20_000, 0.2, atol=0.015)  # 5 standard deviations


def test_draws_from_the_newest_alone():
    state = ring.add(ring.add(ring.init(EXAMPLE, CAPACITY), batch(0, 6)), batch(6, 4))  # wrapped
    draw = jax.jit(ring.sample, static_argnums=2)
    for newest, kept in ((3, range(7, 10)), (0, [9]), (100, range(3, 10))):
        drawn = draw(state, jax.random.key(0), 1000, newest=jnp.int32(newest))
        assert set(np.asarray(drawn["reward"]).astype(int)) == set(kept)


def test_a_count_never_overflows():
    """Near the end of int32 it goes on as a ring does that is not full of steps."""
    full = ring.add(ring.init(EXAMPLE, CAPACITY), batch(0, CAPACITY))
    rounds = ring.MANY // CAPACITY * CAPACITY
    old, new = full.replace(count=jnp.int32(rounds + CAPACITY - 2)), full
    old = ring.add(old, batch(100, 4))
    new = ring.add(new.replace(count=jnp.int32(2 * CAPACITY - 2)), batch(100, 4))
    assert old.count == CAPACITY + 2 and old.size == CAPACITY
    jax.tree.map(np.testing.assert_array_equal, old.items, new.items)
    drawn = ring.sample(old, jax.random.key(0), 100, newest=4)
    assert set(np.asarray(drawn["reward"]).astype(int)) == {100, 101, 102, 103}


def test_an_empty_ring_gives_zeros():
    drawn = ring.sample(ring.init(EXAMPLE, CAPACITY), jax.random.key(0), 4)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(drawn))


def test_a_shape_serves_as_example():
    example = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, EXAMPLE))
    made, expected = ring.init(example, 3), ring.init(EXAMPLE, 3)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, expected)


def test_lanes_of_a_vmap_are_single_rings():
    def run(start):
        state = ring.init(0.0, 4)
        for _ in range(3):
            state = ring.add(state, start + 10 * state.count + jnp.arange(3.0))
        return state, ring.sample(state, jax.random.key(1), 5)

    lanes = jax.jit(jax.vmap(run))(jnp.arange(3.0))
    for lane in range(3):
        jax.tree.map(
            np.testing.assert_array_equal,
            jax.tree.map(lambda leaf, lane=lane: leaf[lane], lanes),
            run(jnp.float32(lane)),
        )


def test_donation_writes_in_place():
    state = ring.init(jnp.zeros(1000), 64)
    pointer = state.items.unsafe_buffer_pointer()
    state = jax.jit(ring.add, donate_argnums=0)(state, jnp.ones((3, 1000)))
    assert state.items.unsafe_buffer_pointer() == pointer
    assert int(state.count) == 3


def test_refuses_what_does_not_fit():
    state = ring.init(EXAMPLE, CAPACITY)
    with pytest.raises(UsageError, match="8 items are added at once, but the replay holds 7"):
        ring.add(state, batch(0, 8))
    with pytest.raises(UsageError, match="capacity is at least 1; got 0"):
        ring.init(EXAMPLE, 0)
    with pytest.raises(AssertionError, match="float32"):
        ring.add(state, batch(0, 2) | {"pixels": jnp.zeros((2, 2, 3))})
    with pytest.raises(AssertionError):
        ring.add(state, batch(0, 2) | {"pixels": jnp.zeros((2, 2, 4), jnp.uint8)})


def test_adding_traces_once():
    traced = 0

    @partial(jax.jit, donate_argnums=0)
    def add(state, items):
        nonlocal traced
        traced += 1
        return ring.add(state, items)

    state = ring.init(EXAMPLE, CAPACITY)
    for start in range(3):
        state = add(state, batch(start, 2))
    assert traced == 1
