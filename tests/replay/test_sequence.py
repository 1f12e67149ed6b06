"""Sequence replay against plain lists of frames, one list a stream."""

import itertools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamerzero.replay import sequence
from dreamerzero.types import Box, Discrete, EnvSpec, Rollout, TimeStep

STREAMS, STEPS, SLOTS, LENGTH = 2, 4, 11, 5
SPEC = EnvSpec("counting", Box((1,), "uint8", 0, 255), Box((1,), "float32", -1.0, 1.0))

add = jax.jit(sequence.add)
sample = jax.jit(sequence.sample, static_argnums=(2, 3))


class Moment(NamedTuple):
    """One frame of the oracle, numbered by what it shows."""

    observation: int
    action: float
    reward: float
    is_first: bool
    is_last: bool
    is_terminal: bool


class Life:
    """One environment: counts up for ever, in episodes of the given lengths, every third of which
    ends in a time limit. Keeps the frames that a replay should have seen."""

    def __init__(self, lengths, lane):
        self.number = 100 * lane + 1
        self.ends = itertools.accumulate(itertools.cycle(lengths))
        self.end, self.time, self.episode = next(self.ends), 0, 0
        self.seen = (self.number, 0.0, False, False, True)
        self.frames = []

    def step(self):
        """The row of a rollout: what was seen, the action, what came of it."""
        self.time, self.number = self.time + 1, self.number + 1
        over, truncated = self.time == self.end, self.episode % 3 == 2
        action, seen = -self.number / 256, self.seen
        result = (self.number, self.number / 2, over and not truncated, over and truncated, False)
        self.frames.append(Moment(seen[0], action, seen[1], seen[4], False, False))
        if over:
            self.frames.append(Moment(*result[:1], 0.0, result[1], False, True, result[2]))
            self.end, self.episode, self.number = next(self.ends), self.episode + 1, self.number + 1
        self.seen = (self.number, 0.0, False, False, True) if over else result
        return seen, action, result


def rollout(lives, steps=STEPS):
    rows = [[life.step() for life in lives] for _ in range(steps)]

    def timestep(index):
        observation, reward, terminated, truncated, is_first = (
            np.array([[lane[index][field] for lane in row] for row in rows]) for field in range(5)
        )
        return TimeStep(
            observation=jnp.asarray(observation[..., None], jnp.uint8),
            reward=jnp.asarray(reward, jnp.float32),
            terminated=jnp.asarray(terminated),
            truncated=jnp.asarray(truncated),
            is_first=jnp.asarray(is_first),
        )

    action = jnp.asarray([[[lane[1]] for lane in row] for row in rows], jnp.float32)
    return Rollout(timestep(0), action, timestep(2))


def moments(frames):
    """Frames `[N, ...]` as a list of the oracle's."""
    columns = (np.asarray(getattr(frames, field)).reshape(-1) for field in Moment._fields)
    return [Moment(*(value.item() for value in row)) for row in zip(*columns)]


def lane(tree, index, axis):
    return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis), tree)


LENGTHS = st.lists(
    st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=STREAMS, max_size=STREAMS
)


@settings(max_examples=20, deadline=None)
@given(LENGTHS, st.integers(1, 9))
def test_streams_hold_the_last_frames_in_order(lengths, rollouts):
    lives = [Life(part, index) for index, part in enumerate(lengths)]
    replay = sequence.init(SPEC, STREAMS, STREAMS * SLOTS)
    for _ in range(rollouts):
        replay = add(replay, rollout(lives))
    for index, life in enumerate(lives):
        head, size = int(replay.head[index]), int(replay.size[index])
        assert head == len(life.frames)
        assert size == min(head, SLOTS)
        held = moments(lane(replay.frames, index, 0))
        assert [held[slot % SLOTS] for slot in range(head - size, head)] == life.frames[-size:]


@settings(max_examples=20, deadline=None)
@given(LENGTHS, st.integers(2, 9), st.integers(0, 1000))
def test_windows_are_slices_of_one_stream(lengths, rollouts, seed):
    lives = [Life(part, index) for index, part in enumerate(lengths)]
    replay = sequence.init(SPEC, STREAMS, STREAMS * SLOTS)
    for _ in range(rollouts):
        replay = add(replay, rollout(lives))

    held = [life.frames[-SLOTS:] for life in lives]
    slices = {
        tuple(frames[start : start + LENGTH]): (index, start)
        for index, frames in enumerate(held)
        for start in range(len(frames) - LENGTH + 1)
    }
    _, batch, place = sample(replay, jax.random.key(seed), 512, LENGTH)
    held_there = jax.tree.map(lambda leaf: leaf[place.stream, place.slot], replay.frames)
    jax.tree.map(np.testing.assert_array_equal, batch, held_there)
    assert batch.observation.shape == (LENGTH, 512, 1)
    assert batch.observation.dtype == jnp.uint8
    windows = [tuple(moments(lane(batch, index, 1))) for index in range(512)]
    drawn = {slices[window] for window in windows}  # a KeyError is a window that never happened
    assert drawn == set(slices.values())  # and every one that did happen can be drawn
    for window in windows:
        for before, after in itertools.pairwise(window):
            assert after.is_first == before.is_last


def test_starts_are_uniform():
    lives = [Life([3, 50], 0), Life([1], 1)]
    replay = sequence.init(SPEC, STREAMS, STREAMS * SLOTS)
    for _ in range(6):
        replay = add(replay, rollout(lives))
    replay, *_ = sample(replay, jax.random.key(1), 2, LENGTH)  # empties the online queue
    first = np.asarray(sample(replay, jax.random.key(0), 28_000, LENGTH)[1].observation)[0]
    values, counts = np.unique(first, return_counts=True)
    starts = SLOTS - LENGTH + 1
    assert len(values) == STREAMS * starts
    np.testing.assert_allclose(counts, 28_000 / len(values), rtol=0.12)  # 5 standard deviations


@settings(max_examples=20, deadline=None)
@given(LENGTHS, st.integers(1, 3), st.integers(1, 12))
def test_the_online_queue_shows_every_new_window_once_and_in_order(lengths, size, rounds):
    lives = [Life(part, index) for index, part in enumerate(lengths)]
    slots = 200  # more than is ever stored
    replay = sequence.init(SPEC, STREAMS, STREAMS * slots)
    for _ in range(2):
        replay = add(replay, rollout(lives))
    following = [0] * len(lives)  # where the next window begins
    for index in range(rounds):
        replay = add(replay, rollout(lives))
        stored = [len(life.frames) for life in lives]
        # Of two whole windows that wait the older one is given up.
        following = [max(at, n - 2 * (LENGTH - 1)) for at, n in zip(following, stored)]
        due = [i for i, at in enumerate(following) if stored[i] - at >= LENGTH][:size]
        replay, batch, place = sample(replay, jax.random.key(index), size, LENGTH)
        assert place.stream[: len(due)].tolist() == due
        for lane_, stream in enumerate(due):
            at = following[stream]
            assert moments(lane(batch, lane_, 1)) == lives[stream].frames[at : at + LENGTH]
            following[stream] += LENGTH - 1


def test_of_what_waits_in_the_queue_the_newest_is_shown():
    lives = [Life([50], index) for index in range(STREAMS)]
    replay = sequence.init(SPEC, STREAMS, STREAMS * SLOTS)
    for _ in range(7):
        replay = add(replay, rollout(lives))
    _, batch, _ = sample(replay, jax.random.key(0), STREAMS, LENGTH)
    for index, life in enumerate(lives):
        newest = life.frames[-2 * (LENGTH - 1) :][:LENGTH]
        assert moments(lane(batch, index, 1)) == newest


def test_a_cut_ends_the_newest_episode_of_every_stream():
    replay = sequence.init(SPEC, STREAMS, STREAMS * SLOTS)
    assert not sequence.cut(replay).frames.is_last.any()
    lives = [Life([50], index) for index in range(STREAMS)]
    replay = add(replay, rollout(lives))
    newest = (replay.head - 1) % SLOTS
    marked = sequence.cut(replay).frames.is_last ^ replay.frames.is_last
    assert marked.sum() == STREAMS
    assert marked[jnp.arange(STREAMS), newest].all()


def test_context_lies_beside_its_frame_and_is_renewed_where_it_was_sampled():
    lives = [Life([3], index) for index in range(STREAMS)]
    replay = sequence.init(SPEC, STREAMS, STREAMS * SLOTS, {"c": jnp.zeros((STREAMS, 1))})
    for _ in range(4):
        new = rollout(lives)
        known = {"c": new.timestep.observation.astype(jnp.float32)}
        replay = add(replay, new.replace(extras=known))
    _, batch, place = sample(replay, jax.random.key(0), 64, LENGTH)
    expected = jnp.where(batch.is_last[..., None], 0, batch.observation)
    np.testing.assert_array_equal(batch.context["c"], expected)  # an end's is not known yet

    renewed = {"c": batch.observation + 0.5}
    written = jax.jit(sequence.write_back)(replay, place, renewed)
    changed = written.frames.context["c"][place.stream, place.slot]
    np.testing.assert_array_equal(changed, renewed["c"])
    before = replay.frames.context["c"].at[place.stream, place.slot].set(0)
    after = written.frames.context["c"].at[place.stream, place.slot].set(0)
    np.testing.assert_array_equal(before, after)  # and nothing else has changed


def test_a_rollout_may_just_fill_a_stream():
    """Episodes of one step double the frames: the largest rollout that is accepted fits."""
    lives = [Life([1], index) for index in range(STREAMS)]
    replay = sequence.init(SPEC, STREAMS, STREAMS * 2 * STEPS)
    for _ in range(3):
        replay = add(replay, rollout(lives))
    held = moments(lane(replay.frames, 0, 0))
    assert held == lives[0].frames[-2 * STEPS :]
    with pytest.raises(ValueError, match="10 frames, but a stream holds 8"):
        sequence.add(replay, rollout(lives, STEPS + 1))


def test_lanes_of_a_vmap_are_single_replays():
    data = [rollout([Life([length], index) for index in range(STREAMS)]) for length in (2, 3, 9)]

    def run(rollout, key):
        replay = sequence.init(SPEC, STREAMS, STREAMS * SLOTS)
        replay = sequence.add(sequence.add(replay, rollout), rollout)
        return sequence.sample(replay, key, 6, LENGTH)

    keys = jax.random.split(jax.random.key(0), 3)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *data)
    lanes = jax.jit(jax.vmap(run))(stacked, keys)
    for index in range(3):
        single = jax.jit(run)(data[index], keys[index])
        jax.tree.map(np.testing.assert_array_equal, lane(lanes, index, 0), single)


def test_donation_writes_in_place():
    replay = sequence.init(SPEC, STREAMS, STREAMS * SLOTS)
    pointer = replay.frames.reward.unsafe_buffer_pointer()
    lives = [Life([3], index) for index in range(STREAMS)]
    replay = jax.jit(sequence.add, donate_argnums=0)(replay, rollout(lives))
    assert replay.frames.reward.unsafe_buffer_pointer() == pointer


def test_discrete_actions_and_observations_keep_their_dtype():
    replay = jax.eval_shape(partial(sequence.init, EnvSpec("", Discrete(3), Discrete(2)), 2, 10))
    assert replay.frames.observation.dtype == replay.frames.action.dtype == jnp.int32
    assert replay.frames.observation.shape == replay.frames.action.shape == (2, 5)
