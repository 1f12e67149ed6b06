"""The room's rules against a loop in numpy, the picture against the projection of a point."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import envs
from dreamerzero.envs.take_cover import CORE, FIRE, MONSTER, MONSTERS, draw
from dreamerzero.types import Box

ENV = envs.make("TakeCover-v0")
PARAMS = ENV.params
LANES, STEPS = 128, 2100


def uniform(key, state):
    return jax.random.uniform(key, (1,), minval=-1.0)


def to_the_wall(key, state):
    return jnp.ones(1)


def dodger(key, state):
    """Knows where balls will land, and runs from the nearest ones."""
    offset = state.aim - state.position - 0.1 * state.speed
    part = jnp.clip(state.clock / PARAMS.flight, 0.0, 1.0)
    danger = jnp.where(jnp.abs(offset) < 1.0, part**2 * jnp.sign(offset + 1e-3), 0.0).sum()
    return jnp.where(jnp.abs(danger) > 0.02, -jnp.sign(danger), 0.0)[None]


@cache
def episodes(policy, reach=PARAMS.reach):
    """States before and after each step, actions, outcomes and ends, `[LANES, STEPS, ...]`."""
    env = ENV.replace(params=PARAMS.replace(reach=reach))

    def episode(key):
        def step(state, key):
            action_key, env_key = jax.random.split(key)
            action = policy(action_key, state)
            # The state at an end is only seen by a step without the automatic reset.
            _, true, *_ = env.environment.step_env(
                jax.random.split(env_key)[0], state, action, env.params
            )
            after, _, successor = env.step(env_key, state, action)
            outcome = successor.reward, successor.terminated, successor.truncated
            return after, (state, true, action[0], outcome)

        state, _ = env.reset(key)
        return jax.lax.scan(step, state, jax.random.split(key, STEPS))[1]

    keys = jax.random.split(jax.random.key(0), LANES)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(episode))(keys))


def at(states, *index):
    return jax.tree.map(lambda leaf: leaf[index], states)


def first_returns(policy, **kwargs):
    """Of the first episode in each lane, and their lengths."""
    reward, terminated, truncated = episodes(policy, **kwargs)[3]
    length = np.argmax(terminated | truncated, axis=1) + 1
    return np.array([r[:n].sum() for r, n in zip(reward, length)]), length


def test_spec():
    assert ENV.spec.observation == Box((64, 64, 3), "uint8", 0, 255)
    assert ENV.spec.action == Box((1,), "float32", -1.0, 1.0)


@pytest.mark.parametrize("policy", [uniform, to_the_wall, dodger])
def test_the_rules_against_a_loop(policy):
    before, after, action, (reward, terminated, _) = episodes(policy)
    throws = landings = walls = 0
    for lane in range(3):
        for step in range(700):
            state, then = at(before, lane, step), at(after, lane, step)
            side = float(action[lane, step] > 1 / 3) - float(action[lane, step] < -1 / 3)
            speed = state.speed + (28.0 * side - 3.5 * state.speed) / 35
            position = state.position + speed / 35
            if abs(position) > 5.5:
                position, speed = np.sign(position) * 5.5, 0.0
                walls += 1
            np.testing.assert_allclose(then.position, position, atol=1e-5)
            np.testing.assert_allclose(then.speed, speed, atol=1e-4)
            assert then.time == state.time + 1
            np.testing.assert_array_equal(then.home, state.home)

            clock = state.clock + np.float32(1 / 35)
            thrown, landed = (state.clock < 0) & (clock >= 0), clock >= np.float32(1.3)
            error = np.abs(then.aim - then.position)
            assert np.all(error[thrown] <= 2.0 + 1e-5) and np.all(np.abs(then.aim) <= 5.5)
            np.testing.assert_array_equal(then.aim[~thrown], state.aim[~thrown])
            hit = np.any(error[landed] < 0.6)
            assert terminated[lane, step] == hit
            assert reward[lane, step] == 1.0 - hit
            gone = landed & (not hit)
            np.testing.assert_allclose(then.clock[~gone], clock[~gone], atol=1e-5)
            assert np.all((then.clock[gone] >= -0.7) & (then.clock[gone] <= -0.5))
            throws, landings = throws + thrown.sum(), landings + landed.sum()
    assert throws > 20 and landings > 20
    assert walls > 0 or policy is not to_the_wall


def test_chance_survives_a_tenth_and_foresight_more():
    """The published scores of a random policy are 210 ± 108 of 2100."""
    chance, _ = first_returns(uniform)
    assert 170 < chance.mean() < 250 and 60 < chance.std() < 160
    assert first_returns(dodger)[0].mean() > 600


def test_an_episode_is_cut_after_a_minute():
    returns, length = first_returns(uniform, reach=0.0)
    assert np.all(returns == 2100) and np.all(length == 2100)
    _, _, _, (_, terminated, truncated) = episodes(uniform, reach=0.0)
    assert truncated[:, -1].all() and not terminated.any()


reset = jax.jit(ENV.reset)
step = jax.jit(ENV.step)
paint = jax.jit(draw)


def run(actions, **start):
    """The state after these actions."""
    state, _ = reset(jax.random.key(0))
    state = state.replace(**{name: jnp.float32(value) for name, value in start.items()})
    state = state.replace(clock=jnp.full(MONSTERS, -100.0))
    for action in actions:
        state, _, _ = step(jax.random.key(1), state, jnp.array([action], jnp.float32))
    return state


def test_the_push_has_thresholds_and_inertia():
    assert run([0.33]).speed == run([-0.33]).speed == 0.0
    assert run([0.34]).speed == run([1.0]).speed == -run([-0.34]).speed > 0
    assert run([0.0], speed=4.0).speed == pytest.approx(3.6)  # it runs on
    assert run([1.0] * 40, position=-5.0).speed == pytest.approx(8.0, rel=0.02)
    stopped = run([-1.0] * 10, position=-5.0)
    assert stopped.position == -5.5 and stopped.speed == 0.0


def test_a_lane_is_its_single_run():
    key = jax.random.key(5)
    keys = jnp.stack([jax.random.key(4), key])
    states, timesteps = jax.jit(jax.vmap(ENV.reset))(keys)
    state, timestep = reset(key)
    np.testing.assert_array_equal(timesteps.observation[1], timestep.observation)
    np.testing.assert_array_equal(states.home[1], state.home)
    assert not np.array_equal(states.home[0], states.home[1])


def picture(time=0, position=0.0, speed=0.0, home=0.0, aim=0.0, clock=-1.0):
    """With the first monster's place, aim and clock; the others wait."""
    state, _ = reset(jax.random.key(0))
    state = state.replace(
        time=jnp.int32(time),
        position=jnp.float32(position),
        speed=jnp.float32(speed),
        home=state.home.at[0].set(home),
        aim=state.aim.at[0].set(aim),
        clock=jnp.full(MONSTERS, -1.0).at[0].set(clock),
    )
    return np.asarray(paint(state, PARAMS)).astype(int)


def burning(image):
    """Which pixels are mostly fire: nothing else in the room is red without blue."""
    return image[..., 0] - image[..., 2] > 100


@pytest.mark.parametrize("part", [0.3, 0.5, 0.7, 0.85])
@pytest.mark.parametrize("position", [0.0, 0.4])
def test_a_ball_is_where_it_flies_and_grows(part, position):
    """A pinhole camera: everything in proportion to one over the distance."""
    image = picture(position=position, home=1.0, aim=0.2, clock=1.3 * part)
    distance = 9.0 * (1 - part)
    x = 1.0 + part * (0.2 - 1.0) - position
    column, row, radius = 32 * np.array([1 + x / distance, 1 + 0.2 / distance, 0.5 / distance])
    fire = burning(image)
    rows, columns = np.nonzero(fire)
    assert abs(columns.mean() + 0.5 - column) < 0.6 and abs(rows.mean() + 0.5 - row) < 0.6
    assert fire.sum() == pytest.approx(np.pi * radius**2, rel=0.15, abs=3)
    if radius > 4:
        assert np.all(image[int(row), int(column)] == CORE)
        assert np.all(image[int(row), int(column + 0.75 * radius)] == FIRE)


def test_a_ball_grows_in_the_monsters_hands_before_it_is_thrown():
    sizes = [burning(picture(clock=clock)).sum() for clock in (-0.71, -0.35, -0.1, 0.0)]
    assert sizes[0] == 0 and sizes == sorted(sizes) and sizes[1] < sizes[2] < sizes[3]
    held, thrown = (burning(picture(home=2.0, clock=clock)) for clock in (-0.01, 0.01))
    columns = [np.nonzero(fire)[1].mean() + 0.5 for fire in (held, thrown)]
    np.testing.assert_allclose(columns, 32 * (1 + 2.0 / 9.0), atol=0.6)


@pytest.mark.parametrize("number", [0, 1, 5, 11])
def test_monsters_come_one_by_one(number):
    """Every 5 s; the others stand far to the right."""
    state, _ = reset(jax.random.key(0))
    home, long = jnp.full(MONSTERS, 4.9).at[number].set(-2.0), jnp.full(MONSTERS, -9.0)
    state = state.replace(home=home, clock=long)  # nothing in their hands yet
    row, column = int(32 + 32 * 0.5 / 9), int(32 - 32 * 2 / 9)
    for time in (max(0, 175 * number - 1), 175 * number + 1, 2100):
        image = np.asarray(paint(state.replace(time=jnp.int32(time)), PARAMS)).astype(int)
        green = np.abs(image[row, column] - MONSTER).max() < 5
        assert green == (time / 35 >= 5 * number)


def test_the_view_moves_with_the_player_and_not_with_the_speed():
    """A step of 1.25 m is four pixels on the far wall, 10 m away."""
    left, right = picture(home=-4.9), picture(position=1.25, home=-4.9)
    np.testing.assert_array_equal(left[29, 20:47], right[29, 16:43])
    assert np.abs(left - right)[29].max() > 10
    np.testing.assert_array_equal(picture(speed=0.0), picture(speed=5.0))
