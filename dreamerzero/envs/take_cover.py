"""A room in which monsters throw fireballs, seen with the eyes of the player who dodges them.

The task is that of VizDoom's take cover (Kempka et al. 2016), in dreams of which World Models were
trained (Ha & Schmidhuber 2018): actions, rewards, ends and the length of a step are the same.

The room is 12 m wide, x from −6 to 6, and 10 m deep. The player moves along its near side, the
monsters stand along the far one. Another comes every few seconds, and each throws its next ball
some time after its last one has arrived; until then it grows in the monster's hands. A ball flies
straight to about where the player was when it was thrown. Where that is can be told from two
pictures, not from one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from dreamerzero.envs.pixels import SIDE, mix, paint, pixel_centres

MONSTERS = 12
"""At most."""

HALF_WIDTH, DEPTH = 6.0, 10.0
"""Of the room (m)."""
MONSTER_DEPTH = 9.0
FLOOR, CEILING = -1.2, 1.8
"""Their heights above the player's eyes (m)."""
BALL_HEIGHT, BALL_RADIUS = -0.2, 0.5
PIXEL = 2 / SIDE
"""The side of a pixel (m at a distance of 1 m): the view is 90° wide."""

WALL, LIGHT_WALL = (58, 54, 60), (128, 118, 124)
FLOOR_TILE, LIGHT_FLOOR_TILE = (72, 56, 44), (132, 104, 80)
MONSTER, FIRE, CORE = (40, 120, 60), (230, 90, 20), (255, 225, 110)


@struct.dataclass
class EnvState(environment.EnvState):
    position: jax.Array
    """Of the player, to the right of the room's middle (m)."""
    speed: jax.Array
    """(m/s)."""
    home: jax.Array
    """`[MONSTERS]`, where they stand (m)."""
    aim: jax.Array
    """`[MONSTERS]`, where their balls arrive (m)."""
    clock: jax.Array
    """`[MONSTERS]`, since their balls were thrown (s); negative before."""


@struct.dataclass
class EnvParams(environment.EnvParams):
    max_steps_in_episode: int = 2100
    push: float = 28.0
    """The player's acceleration (m/s²)."""
    friction: float = 3.5
    """Share of the speed that is lost in a second: the fastest is push / friction, 8 m/s."""
    reach: float = 0.6
    """A ball hits whoever is nearer than this when it arrives (m)."""
    flight: float = 1.3
    """Of a ball, from monster to player (s)."""
    spread: float = 2.0
    """Aims are up to this far from the player (m)."""
    interval: float = 5.0
    """From one monster's coming to the next one's (s)."""
    shortest_wait: float = 0.5
    longest_wait: float = 0.7
    """Of a monster before a throw (s)."""
    tau: float = 1 / 35
    """Seconds a step."""


class TakeCover(environment.Environment[EnvState, EnvParams]):
    """Dodge fireballs for as long as you can, while more and more monsters come.

    The action is one number in [−1, 1]: above 1/3 pushes to the right, below −1/3 to the left.
    Every step that is survived pays 1. The episode terminates with a hit and is truncated after
    2100 steps, 60 s.

    The observation is what the player sees, `[64, 64, 3]` uint8. Nothing in it tells the player's
    speed or where a ball will land: that takes memory.
    """

    @property
    def default_params(self) -> EnvParams:
        return EnvParams()

    def reset_env(self, key, params):
        home_key, wait_key = jax.random.split(key)
        state = EnvState(
            time=jnp.int32(0),
            position=jnp.float32(0.0),
            speed=jnp.float32(0.0),
            home=(HALF_WIDTH - 1.0) * jax.random.uniform(home_key, (MONSTERS,), minval=-1.0),
            aim=jnp.zeros(MONSTERS),
            clock=-wait(wait_key, params) - params.interval * jnp.arange(MONSTERS),
        )
        return self.get_obs(state, params), state

    def step_env(self, key, state, action, params):
        aim_key, wait_key = jax.random.split(key)
        side = jnp.reshape(action, ())
        side = (side > 1 / 3).astype(jnp.float32) - (side < -1 / 3)
        speed = state.speed + params.tau * (params.push * side - params.friction * state.speed)
        free = state.position + params.tau * speed
        position = within_walls(free)
        speed = jnp.where(position == free, speed, 0.0)

        clock = state.clock + params.tau
        thrown = (state.clock < 0.0) & (clock >= 0.0)
        error = params.spread * jax.random.uniform(aim_key, (MONSTERS,), minval=-1.0)
        aim = jnp.where(thrown, within_walls(position + error), state.aim)
        arrived = clock >= params.flight
        hit = jnp.any(arrived & (jnp.abs(aim - position) < params.reach))
        clock = jnp.where(arrived & ~hit, -wait(wait_key, params), clock)
        state = EnvState(state.time + 1, position, speed, state.home, aim, clock)
        reward = 1.0 - hit.astype(jnp.float32)
        return self.get_obs(state, params), state, reward, self.is_terminated(state, params), {}

    def get_obs(self, state, params=None, key=None):
        return draw(state, self.default_params if params is None else params)

    def is_terminated(self, state, params):
        # A ball that has arrived is gone, unless it hit.
        return jnp.any(state.clock >= params.flight)

    @property
    def name(self) -> str:
        return "TakeCover-v0"

    @property
    def num_actions(self) -> int:
        return 1

    def action_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (1,))

    def observation_space(self, params):
        return spaces.Box(0, 255, (SIDE, SIDE, 3), jnp.uint8)


def wait(key, params):
    """How long each monster waits before its next throw (s)."""
    return jax.random.uniform(
        key, (MONSTERS,), minval=params.shortest_wait, maxval=params.longest_wait
    )


def within_walls(x):
    """The nearest place where the player can stand, half a metre from the walls."""
    return jnp.clip(x, 0.5 - HALF_WIDTH, HALF_WIDTH - 0.5)


def draw(state, params):
    """The room, the monsters that have come, and the balls in the air."""
    # Everything is drawn where it meets a plane at a distance of 1 m.
    right, up = pixel_centres(left=-1.0, top=1.0, pixel=PIXEL)
    come = state.time * params.tau >= params.interval * jnp.arange(MONSTERS)
    middle, feet = (state.home - state.position) / MONSTER_DEPTH, FLOOR / MONSTER_DEPTH
    middle = middle[:, None, None]
    body = jnp.maximum(jnp.abs(right - middle) - 0.05, jnp.abs(up - feet - 0.09) - 0.09)

    part = jnp.clip(state.clock / params.flight, 0.0, 1.0)
    depth = jnp.maximum(MONSTER_DEPTH * (1.0 - part), 0.05)
    x = (state.home + part * (state.aim - state.home) - state.position) / depth
    # Before a throw the ball grows in the monster's hands.
    radius = BALL_RADIUS * jnp.clip(1.0 + state.clock / params.longest_wait, 0.0, 1.0)
    x, y, radius = (a[:, None, None] for a in (x, BALL_HEIGHT / depth, radius / depth))
    ball = jnp.sqrt((right - x) ** 2 + (up - y) ** 2) - radius
    shown = state.clock >= -params.longest_wait
    return paint(
        (nearest(body, come), MONSTER),
        (nearest(ball, shown), FIRE),
        (nearest(ball + radius / 2, shown), CORE),
        pixel=PIXEL,
        on=room(right, up, state.position),
    )


def nearest(distance, shown):
    """The least `[SIDE, SIDE]` of those distances `[MONSTERS, SIDE, SIDE]` that count."""
    return jnp.min(jnp.where(shown[:, None, None], distance, 1.0), axis=0)


def room(right, up, position):
    """Walls, floor and ceiling, in squares of 2 m that get darker with the distance."""
    wall = jnp.minimum(HALF_WIDTH / jnp.abs(right) - position / right, DEPTH)
    level = jnp.where(up < 0, FLOOR, CEILING) / up
    depth = jnp.minimum(wall, level)
    across = position + right * depth
    # A wall lies in the middle of a square, so that rounding does not speckle it.
    odd = (jnp.floor((across + 1.0) / 2.0) + jnp.floor((depth + 1.0) / 2.0)) % 2
    light = 0.15 * odd + 0.65 * (1.0 - depth / DEPTH)
    floor = ((level < wall) & (up < 0)).astype(jnp.float32)
    return mix(floor, mix(light, WALL, LIGHT_WALL), mix(light, FLOOR_TILE, LIGHT_FLOOR_TILE))
