"""Windows drawn by priority, against plain lists of frames and of masses."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamerzero.replay import windows
from tests.replay.test_sequence import (
    LENGTH,
    LENGTHS,
    SLOTS,
    SPEC,
    STREAMS,
    Life,
    lane,
    moments,
    rollout,
)

add = jax.jit(windows.add)
sample = jax.jit(windows.sample, static_argnums=2)
update = jax.jit(windows.update)


def starts(life):
    """The numbers of the frames that a whole window begins with."""
    return range(max(0, len(life.frames) - SLOTS), len(life.frames) - LENGTH + 1)


@settings(max_examples=20, deadline=None)
@given(LENGTHS, st.lists(st.integers(0, 1000), min_size=2, max_size=9))
def test_every_whole_window_has_its_mass_and_no_other_has_any(lengths, seeds):
    """Streams grow at different speeds, wrap, and windows are given priorities in between."""
    lives = [Life(part, index) for index, part in enumerate(lengths)]
    replay = windows.init(SPEC, STREAMS, STREAMS * SLOTS, LENGTH)
    masses, largest = {}, 1.0
    for seed in seeds:
        replay = add(replay, rollout(lives))
        fresh = {(s, start): largest for s, life in enumerate(lives) for start in starts(life)}
        masses = {key: masses.get(key, mass) for key, mass in fresh.items()}
        expected = np.zeros((STREAMS, SLOTS))
        for (stream, start), mass in masses.items():
            expected[stream, start % SLOTS] = mass
        leaves = np.asarray(replay.tree)[replay.tree.size // 2 :]
        np.testing.assert_allclose(leaves[: expected.size], expected.ravel(), rtol=1e-6)
        assert not leaves[expected.size :].any()
        if not masses:
            continue
        drawn = sample(replay, jax.random.key(seed), 3, 0.5)
        priorities = np.random.default_rng(seed).uniform(0, 4, 3).astype(np.float32)
        replay = update(replay, drawn.place, priorities, 0.5)
        given_ = {}
        for stream, slot, priority in zip(
            drawn.place.stream, drawn.place.slot[0], priorities, strict=True
        ):
            key = next(k for k in masses if k[0] == stream and k[1] % SLOTS == slot)
            given_[key] = max(given_.get(key, 0.0), priority**0.5)
        masses |= given_
        largest = max(largest, *given_.values())


def test_draws_follow_the_masses_and_weights_make_up_for_it():
    lives = [Life([3, 50], 0), Life([1], 1)]
    replay = windows.init(SPEC, STREAMS, STREAMS * SLOTS, LENGTH)
    for _ in range(6):
        replay = add(replay, rollout(lives))
    number = STREAMS * (SLOTS - LENGTH + 1)
    all_of_them = sample(replay, jax.random.key(0), 64, 1.0)
    np.testing.assert_allclose(all_of_them.weights, 1.0, rtol=1e-5)
    first = np.asarray(all_of_them.frames.observation)[0, :, 0]
    assert len(np.unique(first)) == number

    priorities = 1.0 + first % 4
    replay = update(replay, all_of_them.place, jnp.asarray(priorities, jnp.float32), 1.0)
    drawn = sample(replay, jax.random.key(1), 20_000, 1.0)
    shown = np.asarray(drawn.frames.observation)[0, :, 0]
    values, counts = np.unique(shown, return_counts=True)
    share = (1.0 + values % 4) / np.sum(1.0 + values % 4)
    np.testing.assert_allclose(counts / 20_000, share, rtol=0.02)  # stratified
    np.testing.assert_allclose(drawn.weights, 1.0 / (1.0 + shown % 4), rtol=1e-4)
    # Corrected whole, a mean over draws is the mean over all windows.
    weighted = np.sum(drawn.weights * shown) / np.sum(drawn.weights)
    np.testing.assert_allclose(weighted, values.mean(), rtol=0.01)


def test_windows_are_slices_of_one_stream():
    lives = [Life([3, 2], 0), Life([7], 1)]
    replay = windows.init(SPEC, STREAMS, STREAMS * SLOTS, LENGTH)
    for _ in range(5):
        replay = add(replay, rollout(lives))
    slices = [life.frames[start : start + LENGTH] for life in lives for start in starts(life)]
    drawn = sample(replay, jax.random.key(0), 64, 1.0)
    for index in range(64):
        assert moments(lane(drawn.frames, index, 1)) in slices


def test_the_age_of_windows_is_what_came_after_them():
    lives = [Life([3, 2], 0), Life([7], 1)]
    replay = windows.init(SPEC, STREAMS, STREAMS * SLOTS, LENGTH)
    for _ in range(7):  # more than a stream holds
        replay = add(replay, rollout(lives))
    drawn = sample(replay, jax.random.key(0), 64, 1.0)
    ages = windows.age(replay, drawn.place)
    seen = set()
    for index, (stream, age) in enumerate(zip(drawn.place.stream, ages, strict=True)):
        life = lives[int(stream)].frames
        assert len(life) > SLOTS
        window = moments(lane(drawn.frames, index, 1))
        (start,) = (s for s in starts(lives[int(stream)]) if life[s : s + LENGTH] == window)
        later = len(life) - (start + LENGTH)
        assert age == later
        seen.add(later)
    assert 0 in seen
