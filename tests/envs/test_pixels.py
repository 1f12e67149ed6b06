"""Pictures that tell where things are and nothing else, of the very episodes that gymnax plays."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments.classic_control import cartpole, pendulum

from dreamerzero import envs
from dreamerzero.envs.pixels import draw_cart_pole, draw_pendulum
from dreamerzero.types import Box, Discrete
from dreamerzero.viz.render import painter

VECTOR = {"CartPole-pixels": "CartPole-v1", "Pendulum-pixels": "Pendulum-v1"}
DRAW = {"CartPole-pixels": draw_cart_pole, "Pendulum-pixels": draw_pendulum}
LIMIT = {"CartPole-pixels": 20, "Pendulum-pixels": 200}  # such that CartPole meets both its ends
LANES, STEPS = 4, 420


@pytest.fixture(params=VECTOR)
def name(request):
    return request.param


def cart_pole(x=0.0, theta=0.0, rate=0.0):
    """The picture of a cart here (m) and a pole at this angle (rad, clockwise from upright)."""
    return np.asarray(
        draw_cart_pole(cartpole.EnvState(time=0, x=x, x_dot=rate, theta=theta, theta_dot=rate))
    )


def rod(theta=0.0, rate=0.0):
    """The picture of a pendulum at this angle (rad, anticlockwise from upright)."""
    return np.asarray(
        draw_pendulum(pendulum.EnvState(time=0, theta=theta, theta_dot=rate, last_u=rate))
    )


def walk(env, key):
    """A random walk: its states, what the agent sees, and what each step led to."""

    def step(state, key):
        env_key, action_key = jax.random.split(key)
        if isinstance(env.spec.action, Discrete):
            action = jax.random.randint(action_key, (), 0, env.spec.action.num)
        else:
            action = jax.random.uniform(action_key, (1,), minval=-1.0, maxval=1.0)
        state, timestep, successor = env.step(env_key, state, action)
        return state, (state, timestep, successor)

    reset_key, walk_key = jax.random.split(key)
    state, first = env.reset(reset_key)
    return first, *jax.lax.scan(step, state, jax.random.split(walk_key, STEPS))[1]


@cache
def walks(name, limit):
    """`LANES` random walks, under the same keys whatever the environment."""
    env = envs.make(name)
    env = env.replace(params=env.params.replace(max_steps_in_episode=limit))
    keys = jax.random.split(jax.random.key(0), LANES)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(walk, (None, 0)))(env, keys))


def test_spec(name):
    env = envs.make(name)
    assert name in envs.names() and env.name == name
    assert env.spec.observation == Box((64, 64, 3), "uint8", 0, 255)
    assert env.spec.action == envs.make(VECTOR[name]).spec.action
    assert env.params == envs.make(VECTOR[name]).params
    kind = type(env.environment)
    rebuilt = envs.make(f"{kind.__module__}:{kind.__qualname__}")
    assert rebuilt.spec.observation == env.spec.observation


def test_the_episodes_are_those_of_the_vector_environment(name):
    first, state, timestep, successor = walks(name, LIMIT[name])
    _, vector_state, vector_timestep, vector_successor = walks(VECTOR[name], LIMIT[name])
    ends = successor.terminated.sum(), successor.truncated.sum()
    assert ends == (0, 8) if name == "Pendulum-pixels" else min(ends) > 10
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), state, vector_state
    )
    for ours, theirs in (timestep, vector_timestep), (successor, vector_successor):
        np.testing.assert_allclose(ours.reward, theirs.reward, rtol=1e-5, atol=1e-5)
        for flag in ("terminated", "truncated", "is_first"):
            np.testing.assert_array_equal(getattr(ours, flag), getattr(theirs, flag))
    for seen in (first, timestep, successor):
        assert seen.observation.dtype == np.uint8
        assert seen.observation.shape[-3:] == (64, 64, 3)
        assert seen.observation.min() < 10 and seen.observation.max() == 255


def angle_and_place(name, observation):
    """From gymnax's vector: what the picture must tell, `[..., 2]` or `[..., 1]`."""
    if name == "CartPole-pixels":
        return observation[..., [0, 2]]
    return np.arctan2(observation[..., 1], observation[..., 0])[..., None]


def read(name, picture):
    """The same from pictures `[..., 64, 64, 3]`, by centroids of ink.

    Blue has no red in it and orange no blue: what white lacks there is how much of a pixel the cart
    or the pole covers.
    """
    ink = 1 - picture / 255.0
    columns, rows = np.arange(64) + 0.5, np.arange(64) + 0.5
    if name == "CartPole-pixels":
        cart = ink[..., 50:52, :, 0].sum(axis=-2)  # 0.2 … 0.4 m below the pivot
        x = -3.2 + 0.1 * (cart @ columns) / cart.sum(axis=-1)
        pole = ink[..., 23:43, :, 2]  # 0.5 … 2.5 m above it
        middle = (pole @ columns) / pole.sum(axis=-1)
        slope = np.polyfit(rows[23:43], middle.reshape(-1, 20).T, 1)[0]
        return np.stack([x, np.arctan(-slope).reshape(x.shape)], axis=-1)
    weight = ink[..., 2] / ink[..., 2].sum(axis=(-2, -1), keepdims=True)
    right = weight.sum(axis=-2) @ columns - 32
    up = 32 - weight.sum(axis=-1) @ rows
    return np.arctan2(-right, up)[..., None]


def test_the_picture_tells_the_state(name):
    """Also after an end: what the agent sees is the new episode, what came of it the old one."""
    _, _, timestep, successor = walks(name, LIMIT[name])
    _, _, vector_timestep, vector_successor = walks(VECTOR[name], LIMIT[name])
    for ours, theirs in (timestep, vector_timestep), (successor, vector_successor):
        told = read(name, ours.observation)
        error = told - angle_and_place(name, theirs.observation)
        error = (error + np.pi) % (2 * np.pi) - np.pi  # the pendulum's angle goes round
        assert np.abs(error).max() < 0.004  # m and rad: 0.04 pixels, 0.23 degrees
    over = successor.is_last
    assert np.all(np.any(timestep.observation[over] != successor.observation[over], (1, 2, 3)))
    np.testing.assert_array_equal(timestep.observation[~over], successor.observation[~over])


@pytest.mark.parametrize("x", [-2.4, -1.234, 0.0, 2.4])
@pytest.mark.parametrize("theta", [-0.21, 0.0, 0.1, 0.21])
def test_cart_and_pole_are_in_view_wherever_an_episode_goes(x, theta):
    picture = cart_pole(x, theta)
    np.testing.assert_allclose(read("CartPole-pixels", picture), [x, theta], atol=0.004)
    ink, ink_amid = ((255.0 - image).sum() for image in (picture, cart_pole(0.0, theta)))
    assert ink == pytest.approx(ink_amid, rel=0.003)  # nothing is cut off


@pytest.mark.parametrize("theta", np.arange(-3.0, 3.1, 0.5))
def test_the_whole_circle_is_in_view(theta):
    picture = rod(theta)
    np.testing.assert_allclose(read("Pendulum-pixels", picture), [theta], atol=0.004)
    assert np.all(picture[:, [0, -1]] == 255) and np.all(picture[[0, -1]] == 255)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (cart_pole(), cart_pole(x=0.002)),
        (cart_pole(x=1.3), cart_pole(x=1.302)),
        (cart_pole(), cart_pole(theta=0.002)),
        (rod(), rod(0.002)),
        (rod(2.0), rod(2.002)),
    ],
)
def test_a_small_motion_is_seen_and_is_small(before, after):
    """None moves an edge by more than 0.06 pixels, hence a level by 0.06 of its range: 16."""
    change = np.abs(before.astype(int) - after)
    assert 2 <= change.max() <= 20


def test_a_velocity_is_not_seen():
    np.testing.assert_array_equal(cart_pole(0.3, 0.1), cart_pole(0.3, 0.1, rate=2.0))
    np.testing.assert_array_equal(rod(1.0), rod(1.0, rate=2.0))


def test_a_lane_is_its_single_run(name):
    env = envs.make(name)
    env = env.replace(params=env.params.replace(max_steps_in_episode=LIMIT[name]))
    first, _, timestep, successor = walks(name, LIMIT[name])
    key = jax.random.split(jax.random.key(0), LANES)[1]
    alone = jax.tree.map(np.asarray, jax.jit(walk)(env, key))
    np.testing.assert_array_equal(alone[0].observation, first.observation[1])
    np.testing.assert_array_equal(alone[2].observation, timestep.observation[1])
    np.testing.assert_array_equal(alone[3].observation, successor.observation[1])
    assert not np.array_equal(first.observation[0], first.observation[1])  # another key


def test_compiled_or_not_a_picture_is_the_same(name):
    _, state, timestep, _ = walks(name, LIMIT[name])
    fifth = jax.tree.map(lambda leaf: jnp.asarray(leaf[0, 5]), state)
    picture = np.asarray(DRAW[name](fifth)).astype(int)
    # A compiler may round the last bit of a level differently.
    assert np.abs(picture - timestep.observation[0, 5]).max() <= 1


def test_videos_show_the_pictures_themselves(name):
    first, *_ = walks(name, LIMIT[name])
    paint, speed = painter(envs.make(name))
    assert speed == painter(envs.make(VECTOR[name]))[1]
    (image, *_) = paint(first.observation)
    np.testing.assert_array_equal(np.asarray(image)[1::3, 1::3], first.observation[0])
