"""A racing car on a closed track that is another one in every episode, seen from above.

The task is that of gymnasium's CarRacing (Klimov 2016), on which World Models were shown (Ha &
Schmidhuber 2018): actions, rewards, ends and point of view are the same. Car and track are simpler,
so that all of it runs inside `jit`.

The middle of the road is r(θ) = R · (1 + Σ_k a_k cos(kθ + φ_k)), k = 2 … 7, in polar coordinates
about the origin. A track is twelve numbers then, and how far a point is from it has a closed form
to first order, (ρ − r) / √(1 + (r′/r)²): cheap enough for every pixel and every reset.

The car is a bicycle: two equal masses, an axle each, on a stiff rod. In each step both tyres take
away the speed across their wheels, the engine drives the rear one, and the brakes slow both. A tyre
of which more is asked than it can hold slides, and then holds less. So whoever comes too fast into
a bend leaves the road, and gas in a bend makes the rear break away.

The field slopes, in each episode to another side, and nobody sees it from above: the same gas takes
the car along one half of the track too fast, and along the other not at all. Without the slope a
driver who knows nothing but the last picture is nearly as good as one who knows all: he drives
slowly.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from dreamerzero.envs.pixels import SIDE, box, mix, paint, pixel_centres

HARMONICS = np.arange(2, 8)
AMPLITUDES = 0.3 * HARMONICS**-0.7
"""The most that a_k can be; the least is half of it. They sum to 0.70: the road is nowhere nearer
to the origin than 0.30 R, and even there a tile is longer than a step at 31 m/s."""

TILES = 96
"""Of the road, each the same angle seen from the origin."""

PIXEL = 0.5
"""The side of a pixel (m). A picture shows 32 × 32 m, 24 m of them ahead of the car's middle."""

GRASS, LIGHT_GRASS = (102, 178, 92), (122, 196, 108)
ROAD, LIGHT_ROAD = (105, 105, 105), (117, 117, 117)
KERB, LIGHT_KERB = (200, 50, 40), (235, 235, 235)
CAR, GLASS = (30, 60, 170), (20, 20, 30)


@struct.dataclass
class EnvState(environment.EnvState):
    track: jax.Array
    """`[6, 2]`: a_k cos φ_k and a_k sin φ_k."""
    position: jax.Array
    """`[2]`, of the car's middle (m)."""
    heading: jax.Array
    """Where the car points (rad, anticlockwise from the x axis)."""
    velocity: jax.Array
    """`[2]` (m/s). It need not be along the heading."""
    spin: jax.Array
    """Rate of the heading (rad/s)."""
    wheel: jax.Array
    """Angle of the front wheel (rad, positive to the left)."""
    slope: jax.Array
    """`[2]`, how the field accelerates what is on it (m/s²)."""
    visited: jax.Array
    """`[TILES]`, bool."""


@struct.dataclass
class EnvParams(environment.EnvParams):
    max_steps_in_episode: int = 1000
    radius: float = 80.0
    """The track's mean radius R (m)."""
    half_width: float = 3.5
    """Of the road (m)."""
    field: float = 240.0
    """The field's end, to the east, west, north and south of the origin (m)."""
    start_speed: float = 12.0
    """The start is a flying one (m/s)."""
    engine: float = 3.5
    """Acceleration at full gas (m/s²)."""
    brakes: float = 6.0
    """Deceleration at full brake (m/s²)."""
    slope: float = 1.0
    """Acceleration down the field (m/s²)."""
    drag: float = 0.0036
    """Deceleration by the air at 1 m/s (m/s²). It grows with the square of the speed: 31 m/s is the
    highest on the level."""
    grip: float = 8.0
    """What a tyre can hold on the road, for each unit of the mass on its axle (m/s²)."""
    grass_grip: float = 4.0
    """The same with the car's middle beside the road."""
    sliding: float = 0.6
    """Share of the grip that a sliding tyre has left."""
    wheelbase: float = 2.5
    """From axle to axle (m)."""
    max_wheel: float = 0.5
    """The front wheel's angle at full lock (rad)."""
    wheel_rate: float = 1.5
    """How fast the front wheel turns (rad/s)."""
    tau: float = 0.05
    """Seconds a step."""


class CarTrack(environment.Environment[EnvState, EnvParams]):
    """Drive once round a track that is new in every episode, as fast as you can.

    The action is three numbers in [−1, 1], read as World Models reads those of its driver: steer,
    to the right if positive; gas, none at −1; and the brake, none below 0. So zeros drive straight
    on, with half of the gas. The road is of 96 tiles. The first time on one pays 1000/96, every
    step costs 0.1. The episode terminates when all tiles were visited, in either direction, or with
    −100 when the car leaves the field; it is truncated after 1000 steps, 50 s.

    The observation is what is seen from above, `[64, 64, 3]` uint8, with the car upright below the
    middle. Nothing in it tells a velocity, the wheel's angle or the slope: that takes memory.
    """

    @property
    def default_params(self) -> EnvParams:
        return EnvParams()

    def reset_env(self, key, params):
        size_key, phase_key, slope_key = jax.random.split(key, 3)
        size = AMPLITUDES * jax.random.uniform(size_key, HARMONICS.shape, minval=0.5)
        phase = jax.random.uniform(phase_key, HARMONICS.shape, maxval=2 * jnp.pi)
        track = size * direction(phase)
        r, slope = middle(track.T, 1.0, 0.0)
        heading = jnp.arctan2(r, slope)
        state = EnvState(
            time=jnp.int32(0),
            track=track.T,
            position=params.radius * jnp.stack([r, 0.0]),
            heading=heading,
            velocity=params.start_speed * direction(heading),
            spin=jnp.float32(0.0),
            wheel=jnp.float32(0.0),
            slope=params.slope * direction(jax.random.uniform(slope_key, maxval=2 * jnp.pi)),
            visited=jnp.zeros(TILES, bool),
        )
        return self.get_obs(state, params), state

    def step_env(self, key, state, action, params):
        steer, gas, brake = jnp.clip(action, -1.0, 1.0)
        pushes = jnp.stack([steer, (gas + 1.0) / 2.0, jnp.maximum(brake, 0.0)])
        state = drive(state, pushes, params)
        x, y = state.position
        tile = jnp.floor(TILES * jnp.arctan2(y, x) / (2 * jnp.pi)).astype(jnp.int32) % TILES
        fresh = on_road(state, params) & ~state.visited[tile]
        visited = state.visited | (fresh & (jnp.arange(TILES) == tile))
        state = state.replace(time=state.time + 1, visited=visited)
        reward = jnp.where(fresh, 1000.0 / TILES, 0.0) - 0.1
        reward = jnp.where(has_left(state, params), -100.0, reward)
        return self.get_obs(state, params), state, reward, self.is_terminated(state, params), {}

    def get_obs(self, state, params=None, key=None):
        return draw(state, self.default_params if params is None else params)

    def is_terminated(self, state, params):
        return jnp.all(state.visited) | has_left(state, params)

    @property
    def name(self) -> str:
        return "CarTrack-v0"

    @property
    def num_actions(self) -> int:
        return 3

    def action_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (3,))

    def observation_space(self, params):
        return spaces.Box(0, 255, (SIDE, SIDE, 3), jnp.uint8)


def drive(state, action, params):
    """The car one step later. Pushes are changes of an axle's speed (m/s)."""
    steer, gas, brake = action
    tau, half = params.tau, params.wheelbase / 2
    turn = params.wheel_rate * tau
    wheel = state.wheel + jnp.clip(-steer * params.max_wheel - state.wheel, -turn, turn)
    heading = state.heading + tau * state.spin
    ahead = direction(heading)
    left = jnp.stack([-ahead[1], ahead[0]])
    speed, slide = ahead @ state.velocity, left @ state.velocity
    front, rear = slide + half * state.spin, slide - half * state.spin  # across the car

    grip = tau * jnp.where(on_road(state, params), params.grip, params.grass_grip)
    slowing = -jnp.clip(speed, -tau * params.brakes * brake, tau * params.brakes * brake)
    driving = slowing + 2 * tau * params.engine * gas  # one axle moves the mass of both
    cos, sin = direction(wheel)
    front_along, front_across = hold(slowing, sin * speed - cos * front, grip, params.sliding)
    rear_along, rear_across = hold(driving, -rear, grip, params.sliding)

    front += sin * front_along + cos * front_across
    rear += rear_across
    # The rod lets each axle move across it by itself, and along it both together.
    speed += (cos * front_along - sin * front_across + rear_along) / 2
    velocity = speed * ahead + (front + rear) / 2 * left
    velocity += tau * state.slope
    velocity -= tau * params.drag * jnp.sqrt(jnp.sum(velocity**2)) * velocity
    return state.replace(
        position=state.position + tau * velocity,
        heading=heading,
        velocity=velocity,
        spin=(front - rear) / params.wheelbase,
        wheel=wheel,
    )


def hold(along, across, grip, sliding):
    """The push that a tyre gives when asked for this one, along and across its wheel."""
    asked = jnp.sqrt(along**2 + across**2)
    share = jnp.where(asked > grip, sliding * grip / jnp.maximum(asked, 1e-6), 1.0)
    return share * along, share * across


def on_road(state, params):
    """Whether the car's middle is."""
    return jnp.abs(off_middle(state.track, *state.position, params)) <= params.half_width


def has_left(state, params):
    """Whether the car is out of the field."""
    return jnp.max(jnp.abs(state.position)) > params.field


def direction(angle):
    """`[2, ...]`, of length one."""
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def middle(track, cos, sin):
    """r/R and its derivative, at angles given by their cosine and sine."""
    r, slope, power = 1.0, 0.0, (cos, sin)
    for (a, b), k in zip(track, HARMONICS):
        power = times(power, (cos, sin))
        r += a * power[0] - b * power[1]
        slope -= k * (a * power[1] + b * power[0])
    return r, slope


def off_middle(track, x, y, params):
    """How far points are outside the middle of the road (m), to first order."""
    rho = jnp.sqrt(x**2 + y**2) + 1e-6
    r, slope = middle(track, x / rho, y / rho)
    return (rho - params.radius * r) * r / jnp.sqrt(r**2 + slope**2)


def times(one, other):
    """The product of two complex numbers."""
    return one[0] * other[0] - one[1] * other[1], one[0] * other[1] + one[1] * other[0]


def draw(state, params):
    """Car, road with a kerb of 1 m, and grass in squares of 10 m. The kerb's colour changes from
    tile to tile."""
    right, up = pixel_centres(left=-16.0, top=24.0, pixel=PIXEL)
    cos, sin = direction(state.heading)
    x = state.position[0] + cos * up + sin * right
    y = state.position[1] + sin * up - cos * right
    off = jnp.abs(off_middle(state.track, x, y, params)) - params.half_width
    tile, square = odd_tile(x, y), odd_square(x, y)
    return paint(
        (off - 1.0, mix(tile, KERB, LIGHT_KERB)),
        (off, mix(tile, ROAD, LIGHT_ROAD)),
        (box(right, up, half_width=1.0, half_height=2.0), CAR),
        (box(right, up - 0.5, half_width=1.0, half_height=0.5), GLASS),
        pixel=PIXEL,
        on=mix(square, GRASS, LIGHT_GRASS),
    )


def odd_tile(x, y):
    """1 in every other tile, 0 between them, and shares where pixels lie in both."""
    rho = jnp.sqrt(x**2 + y**2) + 1e-6
    unit = x / rho, y / rho
    power = times(times(unit, unit), unit)
    for _ in range(4):  # to the 48th: once round in two tiles
        power = times(power, power)
    return jnp.clip(0.5 - rho / (TILES / 2) * power[1] / PIXEL, 0.0, 1.0)


def odd_square(x, y):
    """1 in every other square of 10 m, 0 between them, and shares where pixels lie in both."""

    def stripes(x):  # 0.5 and −0.5 by turns
        return jnp.clip(
            (jnp.abs(x / 20.0 - jnp.floor(x / 20.0) - 0.5) * 20.0 - 5.0) / PIXEL, -0.5, 0.5
        )

    return 0.5 + 2.0 * stripes(x) * stripes(y)
