"""The car against two masses on a rod in float64, the picture against the nearest point of a fine
polyline, and the rewards against a set of visited tiles."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree

from dreamerzero import envs
from dreamerzero.envs.track import direction, draw, middle
from dreamerzero.types import Box

ENV = envs.make("CarTrack-v0")
PARAMS = ENV.params
TILES = 96
LANES, STEPS = 16, 1000


def left_of(angle):
    return np.array([-np.sin(angle), np.cos(angle)])


def ahead_of(angle):
    return np.array([np.cos(angle), np.sin(angle)])


def driver(key, state):
    """Knows everything: aims at the middle of the road ahead, at a speed that its bends allow, and
    gives less gas while it slides."""

    def along(angle, _):
        r, slope = middle(state.track, *direction(angle))
        point = PARAMS.radius * r * direction(angle)
        after = angle + 4.0 / (PARAMS.radius * jnp.sqrt(r**2 + slope**2))
        return after, (point, angle + jnp.arctan2(r, slope))

    x, y = state.position
    _, (points, tangents) = jax.lax.scan(along, jnp.arctan2(y, x), length=10)
    bends = jnp.abs(jnp.sin(jnp.diff(tangents))) / 4.0
    allowed = jnp.min(jnp.sqrt(4.8 / jnp.maximum(bends, 1e-3) + 4.8 * 4.0 * jnp.arange(9)))
    to_aim = points[2] - state.position
    ahead, left = direction(state.heading), direction(state.heading + jnp.pi / 2)
    wheel = jnp.arctan(2 * PARAMS.wheelbase * (left @ to_aim) / (to_aim @ to_aim))
    missing = allowed - ahead @ state.velocity
    most = 0.6 - jnp.abs(left @ state.velocity)
    gas, brake = jnp.minimum(missing - 1.0, most), jnp.minimum(-missing / 2.0, 0.8)
    return jnp.stack([-wheel / PARAMS.max_wheel, gas, brake])


def wild(key, state):
    """More gas than brakes at full lock: the car slides, leaves the road and turns about."""
    steer_key, pedal_key = jax.random.split(key)
    steer = jnp.sign(jax.random.normal(steer_key, (1,)))
    pedals = jax.random.uniform(pedal_key, (2,), minval=-1.0) + jnp.array([0.5, -0.7])
    return jnp.concatenate([steer, pedals * jnp.array([1.0, 0.5])])


def uniform(key, state):
    return jax.random.uniform(key, (3,), minval=-1.0)


@cache
def episodes(policy):
    """States before and after each step, actions and outcomes, `[LANES, STEPS, ...]`."""

    def episode(key):
        def step(state, key):
            action_key, env_key = jax.random.split(key)
            action = policy(action_key, state)
            after, _, successor = ENV.step(env_key, state, action)
            outcome = successor.reward, successor.terminated, successor.truncated
            steer, gas, brake = jnp.clip(action, -1.0, 1.0)
            pushes = jnp.stack([steer, (gas + 1.0) / 2.0, jnp.maximum(brake, 0.0)])
            return after, (state, after, pushes, outcome)

        state, _ = ENV.reset(key)
        return jax.lax.scan(step, state, jax.random.split(key, STEPS))[1]

    keys = jax.random.split(jax.random.key(0), LANES)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(episode))(keys))


reset = jax.jit(jax.vmap(ENV.reset))
paint = jax.jit(draw)


def lane(tree, *index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def radius(track, angle):
    """By the definition, with amplitude and phase (m)."""
    track = np.asarray(track, np.float64)
    size, phase = np.hypot(*track.T), np.arctan2(*track.T[::-1])
    waves = [a * np.cos(k * angle + p) for a, p, k in zip(size, phase, range(2, 8))]
    return PARAMS.radius * (1.0 + sum(waves))


def off(track, position):
    """Distance from the middle to first order, with the slope by differences (m)."""
    angle = np.arctan2(position[1], position[0])
    slope = (radius(track, angle + 1e-5) - radius(track, angle - 1e-5)) / 2e-5
    r = radius(track, angle)
    return abs(np.hypot(*position) - r) / np.hypot(1.0, slope / r)


def two_masses(state, action):
    """A step of two equal masses on a rod, in the plane's own axes: heading, velocities, wheel.

    Also how much room there was between what was asked of the tyres and what they hold, (m/s).
    """
    tau, (steer, gas, brake) = PARAMS.tau, action.astype(np.float64)
    wheel = np.clip(-0.5 * steer, state.wheel - tau * 1.5, state.wheel + tau * 1.5)
    heading = float(state.heading) + tau * float(state.spin)
    ahead, left = ahead_of(heading), left_of(heading)
    swing = float(state.spin) * 2.5 / 2 * left
    speeds = {"front": state.velocity + swing, "rear": state.velocity - swing}
    grip = tau * (8.0 if off(state.track, state.position) <= 3.5 else 4.0)
    forward = float(state.velocity.astype(np.float64) @ ahead)
    brakes = -np.sign(forward) * min(abs(forward), tau * 6.0 * brake)
    room = []
    for axle, angle, push in (("front", heading + wheel, brakes), ("rear", heading, brakes)):
        push += 2 * tau * 3.5 * gas if axle == "rear" else 0.0
        asked = push * ahead_of(angle) - (speeds[axle] @ left_of(angle)) * left_of(angle)
        room.append(abs(np.linalg.norm(asked) - grip))
        if np.linalg.norm(asked) > grip:
            asked *= 0.6 * grip / np.linalg.norm(asked)
        speeds[axle] = speeds[axle] + asked
    tension = (speeds["front"] - speeds["rear"]) @ ahead / 2 * ahead  # the rod is stiff
    front, rear = speeds["front"] - tension, speeds["rear"] + tension
    velocity = (front + rear) / 2 + tau * state.slope
    velocity = velocity * (1.0 - tau * 0.0036 * np.linalg.norm(velocity))
    return heading, velocity, (front - rear) @ left / 2.5, wheel, min(room)


def test_spec():
    assert ENV.spec.observation == Box((64, 64, 3), "uint8", 0, 255)
    assert ENV.spec.action == Box((3,), "float32", -1.0, 1.0)


@pytest.mark.parametrize("policy", [driver, wild])
def test_the_car_against_two_masses(policy):
    before, after, action, outcome = episodes(policy)
    over = outcome[1] | outcome[2]
    slid = beside = compared = 0
    for index in zip(*np.nonzero(~over[:3, ::4])):
        index = index[0], 4 * index[1]
        state, then = lane(before, *index), lane(after, *index)
        distance = off(state.track, state.position)
        heading, velocity, spin, wheel, room = two_masses(state, action[index])
        if room < 1e-4 or abs(distance - 3.5) < 1e-3:
            continue  # rounding decides
        np.testing.assert_allclose(then.heading, heading, atol=1e-4)
        np.testing.assert_allclose(then.velocity, velocity, atol=1e-3)
        np.testing.assert_allclose(then.spin, spin, atol=1e-3)
        np.testing.assert_allclose(then.wheel, wheel, atol=1e-5)
        np.testing.assert_allclose(then.position, state.position + 0.05 * velocity, atol=1e-3)
        slid += abs(velocity @ left_of(heading)) > 1.0
        beside += distance > 3.5
        compared += 1
    assert compared > 500
    if policy is wild:
        assert slid > 20 and beside > 20


@pytest.mark.parametrize("policy", [driver, wild])
def test_a_tile_pays_once(policy):
    _, after, _, (reward, terminated, truncated) = episodes(policy)
    for number in range(LANES):
        visited = set()
        for step in range(STEPS):
            over = terminated[number, step] or truncated[number, step]
            if over:  # `after` is a new episode's
                break
            state = lane(after, number, step)
            angle = np.arctan2(*state.position[::-1].astype(np.float64)) % (2 * np.pi)
            tile = int(angle // (2 * np.pi / TILES))
            fresh = tile not in visited
            on = off(state.track, state.position) <= 3.5
            paid = reward[number, step] > 0
            assert paid == (on and fresh) or abs(off(state.track, state.position) - 3.5) < 1e-3
            if paid:
                visited.add(tile)
            expected = 1000 / TILES - 0.1 if paid else -0.1
            np.testing.assert_allclose(reward[number, step], expected, rtol=1e-4)
            assert state.visited.sum() == len(visited) and state.visited[sorted(visited)].all()


def first_returns(policy):
    """Of the first episode in each lane, and their lengths."""
    _, _, _, (reward, terminated, truncated) = episodes(policy)
    length = np.argmax(terminated | truncated, axis=1) + 1
    return np.array([r[:n].sum() for r, n in zip(reward, length)]), length


def test_who_knows_the_track_gets_round_in_time():
    returns, length = first_returns(driver)
    terminated = episodes(driver)[3][1]
    assert returns.mean() > 860 and np.median(returns) > 880
    finished = np.flatnonzero(length < STEPS)
    assert len(finished) >= LANES / 2
    for number in finished:
        assert terminated[number, length[number] - 1]
        assert returns[number] == pytest.approx(1000 - 0.1 * length[number], abs=0.01)


def test_chance_gets_nowhere():
    returns, length = first_returns(uniform)
    assert (length < STEPS).any()  # lost, with −100
    assert -140 < returns.mean() < -60 and returns.max() < 150


def test_the_field_ends():
    """At 240 m, with −100: a step of 0.6 m from 239 m is in it, one from 239.8 m is not."""
    state, _ = reset(jax.random.split(jax.random.key(0), 2))
    state = state.replace(
        position=jnp.array([[239.0, 20.0], [-20.0, -239.8]]),
        velocity=jnp.array([[12.0, 0.0], [0.0, -12.0]]),
        heading=jnp.array([0.0, -np.pi / 2]),
    )
    coast = jnp.array([[0.0, -1.0, -1.0]] * 2)
    step = jax.jit(jax.vmap(ENV.step))
    after, _, successor = step(jax.random.split(jax.random.key(1), 2), state, coast)
    np.testing.assert_array_equal(successor.terminated, [False, True])
    np.testing.assert_allclose(successor.reward, [-0.1, -100.0])
    np.testing.assert_array_equal(after.time, [1, 0])


def test_tracks():
    """Each key has its own, smooth and closed, with tiles longer than a step at the top speed."""
    keys = jax.random.split(jax.random.key(1), 64)
    state, timestep = reset(keys)
    again, timestep_again = reset(keys[::-1])
    np.testing.assert_array_equal(state.track, again.track[::-1])
    np.testing.assert_array_equal(timestep.observation, timestep_again.observation[::-1])
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    radii = np.array([radius(track, angles) for track in state.track])
    assert np.abs(radii[:-1] - radii[1:]).max(axis=1).min() > 5
    fastest = np.sqrt(PARAMS.engine / PARAMS.drag) * PARAMS.tau
    assert 0.3 * PARAMS.radius * 2 * np.pi / TILES > fastest
    assert radii.min() > 0.3 * PARAMS.radius and radii.max() < PARAMS.field - 60
    # The start is on the middle, along it, at 12 m/s.
    np.testing.assert_allclose(state.position[:, 0], radii[:, 0], rtol=1e-5)
    for track, heading, velocity in zip(state.track, state.heading, state.velocity):
        step = radius(track, 1e-4) * ahead_of(1e-4) - radius(track, 0.0) * ahead_of(0.0)
        np.testing.assert_allclose(step / np.linalg.norm(step), ahead_of(heading), atol=1e-3)
        np.testing.assert_allclose(velocity, 12 * ahead_of(heading), atol=1e-3)
    assert not np.array_equal(timestep.observation[0], timestep.observation[1])
    # As steep everywhere, to any side.
    np.testing.assert_allclose(np.linalg.norm(state.slope, axis=1), PARAMS.slope, rtol=1e-5)
    sides = np.arctan2(*state.slope.T)
    assert np.histogram(sides, 4, (-np.pi, np.pi))[0].min() >= 8


def picture(state):
    return np.asarray(paint(state, PARAMS)).astype(int)


def places(count=6):
    """States on the road and, in its first seconds, of the wild car beside it."""
    for i in range(count):
        before, *_ = episodes(driver if i % 2 else wild)
        yield jax.tree.map(jnp.asarray, lane(before, i, 60 + 20 * i))


def test_the_picture_shows_the_road_where_it_is():
    """Grey where the nearest point of the middle is near, green where it is far."""
    angles = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    rows, columns = np.mgrid[:64, :64]
    up, right = 24.0 - 0.5 * (rows + 0.5), -16.0 + 0.5 * (columns + 0.5)
    car = (np.abs(up) < 2.5) & (np.abs(right) < 1.5)
    right_colour, seen = [], 0
    for state in places():
        image = picture(state)
        line = radius(state.track, angles) * ahead_of(angles)
        heading = float(state.heading)
        place = np.asarray(state.position)[:, None, None]
        place = place + up * ahead_of(heading)[:, None, None]
        place = place - right * left_of(heading)[:, None, None]
        distance, _ = cKDTree(line.T).query(place.reshape(2, -1).T)
        distance = distance.reshape(64, 64)
        grey = np.ptp(image, axis=-1) < 10
        green = image[..., 1] > image[..., [0, 2]].max(axis=-1) + 40
        on, beside = (distance < 2.5) & ~car, (distance > 6.5) & ~car
        right_colour += [*grey[on], *green[beside]]
        seen += on.sum()
        blue = image[car & (np.abs(up) < 1.5) & (np.abs(right) < 0.5)]
        assert np.all(blue[:, 2] < 180) and np.all(blue[:, 1] < 70)
    assert np.mean(right_colour) > 0.99 and seen > 1000


def test_going_ahead_the_world_comes_nearer():
    """By 2 m, four pixels: the picture moves down, but for the car."""
    for state in places():
        further = state.replace(position=state.position + 2.0 * direction(state.heading))
        near, far = picture(further), picture(state)
        assert np.abs(near[4:40] - far[:36]).max() <= 2
        assert np.abs(near - far).max() >= 20


def test_the_view_turns_with_the_car():
    """Turn track and car together by whole pairs of tiles: only the grass has other squares."""
    turn = 2 * np.pi * 10 / TILES
    for state in places():
        k = np.arange(2, 8)
        a, b = np.asarray(state.track, np.float64).T
        cos, sin = np.cos(k * turn), np.sin(k * turn)
        x, y = state.position
        turned = state.replace(
            track=jnp.asarray(np.stack([a * cos + b * sin, b * cos - a * sin], -1), jnp.float32),
            position=jnp.stack(
                [x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)]
            ),
            heading=state.heading + turn,
        )
        one, other = picture(state), picture(turned)
        grass = one[..., 1] > one[..., [0, 2]].max(axis=-1) + 20
        assert np.abs(one - other)[~grass].max() <= 40  # kerbs share pixels with the grass
        assert np.abs(one - other)[~grass].mean() < 1.0
        alone = picture(state.replace(heading=state.heading + turn))
        assert np.abs(one - alone).mean() > 5


def test_what_moves_the_car_is_not_seen():
    for state in places(2):
        other = state.replace(
            velocity=-3.0 * state.velocity,
            spin=state.spin + 1.0,
            wheel=state.wheel + 0.3,
            slope=-state.slope,
        )
        np.testing.assert_array_equal(picture(state), picture(other))
