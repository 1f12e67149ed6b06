import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from PIL import Image

from dreamerzero import envs
from dreamerzero.types import ActorOutput, Discrete, EnvSpec, UsageError, static
from dreamerzero.viz import video
from dreamerzero.viz.colours import SERIES
from dreamerzero.viz.render import painter, rgb


@struct.dataclass
class Fixed:
    """Repeats a list of actions, counting steps in its memory."""

    spec: EnvSpec = static()

    def memory(self, batch_size):
        return jnp.zeros(batch_size, jnp.int32)

    def act(self, params, key, timestep, memory, *, explore):
        assert not explore
        assert timestep.observation.shape[0] == memory.shape[0] == 1
        return ActorOutput(params[memory % len(params)], memory + 1)


def fixed(name, *actions):
    env = envs.make(name)
    kind = jnp.int32 if isinstance(env.spec.action, Discrete) else jnp.float32
    return Fixed(env.spec), jnp.array(actions, kind), env


def frames(path):
    with Image.open(path) as image:
        for index in range(image.n_frames):
            image.seek(index)
            yield np.array(image.convert("RGB"))


def test_a_recorded_episode_ends_with_its_last_step(tmp_path):
    up, right, down = 0, 1, 2
    way = [down, down, right, right, right, up, right, right, right, right, right, up, up, up]
    agent, params, env = fixed("DynaMaze-v0", *way)
    path = tmp_path / "videos" / "maze.gif"
    assert video.record(agent, params, env, jax.random.key(0), path) == 1.0
    pictures = list(frames(path))
    assert len(pictures) == 1 + len(way)
    observations, _, is_last = video.play(agent, params, env, jax.random.key(0), 20)
    assert np.argmax(is_last) == len(way) - 1
    assert observations[0] == 18
    assert observations[len(way)] == 8  # the goal, not the next episode's start


def test_a_long_episode_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "STEPS", 7)
    agent, params, env = fixed("Pendulum-v1", [0.0], [1.0])
    path = tmp_path / "pendulum.gif"
    shown = video.record(agent, params, env, jax.random.key(1), path)
    _, rewards, is_last = video.play(agent, params, env, jax.random.key(1), 7)
    assert not is_last.any()
    assert shown == pytest.approx(float(rewards.sum()), rel=1e-6)
    assert len(list(frames(path))) == 8


def test_only_gifs_are_written(tmp_path):
    agent, params, env = fixed("Pendulum-v1", [0.0])
    with pytest.raises(UsageError, match=r"\.gif"):
        video.record(agent, params, env, jax.random.key(0), tmp_path / "video.mp4")


def picture(name, *observations):
    env = envs.make(name)
    paint, _ = painter(env)
    observations = np.array(observations, env.spec.observation.dtype)
    return [np.array(image, float) for image in paint(observations)]


def where(image, colour):
    """Rows and columns of the pixels of that colour, `[N, 2]`."""
    return np.argwhere(np.all(image == rgb(colour), axis=-1))


def test_cart_pole_leans_the_way_its_angle_says():
    right, left = picture("CartPole-v1", [1.0, 0, 0.3, 0], [-1.0, 0, -0.3, 0])
    blue, orange = SERIES[:2]
    assert where(right, blue)[:, 1].mean() > right.shape[1] / 2 > where(left, blue)[:, 1].mean()
    assert where(right, orange)[:, 1].mean() > where(right, blue)[:, 1].mean() + 5
    assert where(left, orange)[:, 1].mean() < where(left, blue)[:, 1].mean() - 5


def test_swingup_hangs_at_half_a_turn():
    up, down = picture("CartPoleSwingup-v0", [0, 1, 0, 0, 0], [0, -1, 0, 0, 0])
    middle = where(up, SERIES[0])[:, 0].mean()
    assert where(up, SERIES[1])[:, 0].mean() < middle < where(down, SERIES[1])[:, 0].mean()


def test_each_channel_has_its_cell_and_colour():
    board = np.zeros((10, 10, 4))
    board[9, 2, 0] = board[4, 7, 1] = 1
    (image,) = picture("Breakout-MinAtar", board)
    for (row, column), colour in (((9, 2), SERIES[0]), ((4, 7), SERIES[1])):
        np.testing.assert_array_equal(
            np.unique(where(image, colour) // 24, axis=0), [[row, column]]
        )


@pytest.mark.parametrize(("repeat", "change_at"), [(1, 1), (4, 4)])
def test_the_maze_shows_the_walls_of_the_day(repeat, change_at):
    env = envs.make("BlockingMaze-v0", action_repeat=repeat)
    paint, speed = painter(env.replace(params=env.params.replace(change_at=change_at)))
    assert speed == round(10 / repeat)
    before, after = (np.array(image, float) for image in paint(np.array([48, 48])))
    side = before.shape[1] // 9
    wall = rgb("#444444")
    gap_right, gap_left = (
        (slice(3 * side, 4 * side), slice(8 * side, None)),
        (
            slice(3 * side, 4 * side),
            slice(0, side),
        ),
    )
    assert np.all(before[gap_left] == wall)
    assert np.all(after[gap_right] == wall)
    assert not np.any(np.all(before[gap_right] == wall, axis=-1))
    assert not np.any(np.all(after[gap_left] == wall, axis=-1))


@pytest.mark.parametrize("name", ["FrozenLake-misc", "Reacher-misc", "Catch-bsuite"])
def test_what_nobody_drew_has_a_picture_too(name):
    env = envs.make(name)
    observations = np.ones((3, *env.spec.observation.shape), env.spec.observation.dtype)
    images = list(painter(env)[0](observations))
    assert len(images) == 3
    assert all(image.size == images[0].size for image in images)
