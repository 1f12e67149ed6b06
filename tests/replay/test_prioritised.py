"""Prioritised replay: the sums of the tree, the distribution and the weights against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamerzero.replay import prioritised

add = jax.jit(prioritised.add)
update = jax.jit(prioritised.update)
sample = jax.jit(prioritised.sample, static_argnums=2)


def masses(replay):
    leaves = replay.tree.shape[0] // 2
    return np.asarray(replay.tree)[leaves:]


def check_sums(replay):
    tree = np.asarray(replay.tree)
    leaves = tree.shape[0] // 2
    for node in range(1, leaves):
        assert tree[node] == tree[2 * node] + tree[2 * node + 1]
    assert not masses(replay)[replay.ring.capacity :].any()


def filled(priorities, alpha=1.0):
    number = len(priorities)
    replay = prioritised.add(prioritised.init(0.0, number), jnp.arange(float(number)))
    return prioritised.update(replay, jnp.arange(number), jnp.asarray(priorities), alpha)


CHANGES = st.lists(
    st.one_of(
        st.just("add"),
        st.lists(st.tuples(st.integers(0, 4), st.floats(0, 100, width=32)), min_size=3, max_size=3),
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(CHANGES)
def test_tree_against_a_plain_list(changes):
    replay = prioritised.init(0.0, 5)
    expected, count, largest = np.zeros(5, np.float32), 0, np.float32(1)
    for change in changes:
        if change == "add":
            replay = add(replay, jnp.zeros(3))
            expected[(count + np.arange(3)) % 5] = largest
            count += 3
        else:
            slots, priorities = map(np.asarray, zip(*change, strict=True))
            given_masses = np.asarray(jnp.asarray(priorities, jnp.float32) ** 0.5)
            replay = update(replay, jnp.asarray(slots), jnp.asarray(priorities, jnp.float32), 0.5)
            for slot in set(slots.tolist()):  # a slot named twice gets its largest
                expected[slot] = given_masses[slots == slot].max()
            largest = max(largest, given_masses.max())
        check_sums(replay)
        np.testing.assert_allclose(masses(replay)[:5], expected, rtol=1e-6)
        np.testing.assert_allclose(replay.largest, largest, rtol=1e-6)
        assert int(replay.size) == min(count, 5)


def test_distribution_and_weights():
    priorities = np.array([0.5, 4.0, 0.0, 1.0, 2.5, 3.0])
    alpha, beta, batch, draws = 0.6, 0.4, 16, 1000
    replay = filled(priorities, alpha)
    keys = jax.random.split(jax.random.key(0), draws)
    slots, items, weights = jax.vmap(lambda key: sample(replay, key, batch, beta))(keys)

    probability = priorities**alpha / np.sum(priorities**alpha)
    frequency = np.bincount(np.ravel(slots), minlength=6) / (draws * batch)
    np.testing.assert_allclose(frequency, probability, atol=0.015)
    assert frequency[2] == 0.0
    np.testing.assert_array_equal(items, slots)  # item i is the number i

    with np.errstate(divide="ignore"):
        expected = (6 * probability) ** -beta
    expected = expected[np.asarray(slots)]
    expected /= expected.max(axis=1, keepdims=True)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_draws_are_stratified():
    """Each share of the mass gives one draw, so counts differ from their mean by less than two."""
    priorities = np.array([1.0, 5.0, 2.0, 8.0])
    replay = filled(priorities)
    for seed in range(20):
        slots = sample(replay, jax.random.key(seed), 32, 1.0).slots
        counts = np.bincount(slots, minlength=4)
        assert np.all(np.abs(counts - 32 * priorities / 16) < 2)
        assert np.all(np.diff(slots) >= 0)


def test_alpha_zero_is_uniform_and_beta_zero_unweighted():
    replay = filled([1e-3, 1.0, 1e3, 10.0], alpha=0.0)
    drawn = sample(replay, jax.random.key(0), 400, 0.0)
    np.testing.assert_allclose(np.bincount(drawn.slots), 100, atol=1)
    np.testing.assert_array_equal(drawn.weights, 1.0)


def test_rounding_never_draws_an_empty_slot(monkeypatch):
    """The largest jitter below one rounds to the whole mass, beyond the last item that has any."""
    priorities = np.array([2.0, 1.0, 0.0, 3.0, 0.0])
    replay = filled(priorities)
    monkeypatch.setattr(jax.random, "uniform", lambda _, shape: jnp.full(shape, 1 - 2**-24))
    slots = prioritised.sample(replay, None, 512, 1.0).slots
    assert np.all(priorities[np.asarray(slots)] > 0)


def test_new_items_get_the_largest_priority_and_replace_the_oldest():
    replay = update(filled([1.0, 2.0, 3.0]), jnp.array([1]), jnp.array([9.0]), 1.0)
    replay = prioritised.add(replay, jnp.array([7.0]))
    np.testing.assert_array_equal(masses(replay)[:3], [9.0, 9.0, 3.0])
    np.testing.assert_array_equal(replay.ring.items, [7.0, 1.0, 2.0])


def test_one_item():
    drawn = sample(filled([0.1]), jax.random.key(0), 3, 1.0)
    np.testing.assert_array_equal(drawn.slots, 0)
    np.testing.assert_array_equal(drawn.weights, 1.0)


def test_lanes_of_a_vmap_are_single_replays():
    priorities = jax.random.uniform(jax.random.key(1), (3, 6))

    def draw(priorities):
        replay = prioritised.add(prioritised.init(0.0, 6), jnp.arange(6.0))
        replay = prioritised.update(replay, jnp.arange(6), priorities, 0.7)
        return prioritised.sample(replay, jax.random.key(2), 8, 0.5)

    lanes = jax.jit(jax.vmap(draw))(priorities)
    for lane in range(3):
        single = jax.jit(draw)(priorities[lane])
        np.testing.assert_array_equal(lanes.slots[lane], single.slots)
        np.testing.assert_allclose(lanes.weights[lane], single.weights, rtol=1e-6)
