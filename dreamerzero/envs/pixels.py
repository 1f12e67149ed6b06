"""Cart-pole and pendulum as pictures: known dynamics for agents that learn from images.

Shapes are given by signed distances (m, negative inside) from the centres of the pixels. A shape's
edge is spread over the width of a pixel, so a motion far below one pixel still changes the picture;
widths are whole pixels, for then the mean of an upright bar's pixels is exactly where the bar is.
Nothing in a picture tells a velocity: that takes memory.
"""

from __future__ import annotations

import jax.numpy as jnp
from gymnax.environments import environment, spaces
from gymnax.environments.classic_control.cartpole import CartPole
from gymnax.environments.classic_control.pendulum import Pendulum

SIDE = 64
"""Pixels along either side of a picture."""

WHITE = (255, 255, 255)
BLACK = (0, 0, 0)
GREY = (187, 187, 187)
BLUE = (0, 114, 178)
ORANGE = (213, 94, 0)


class Pixels(environment.Environment):
    """Another environment of which only pictures are seen; all else is as it is there.

    Args:
      inner: the environment that has the state, the rewards and the ends.
      draw: a picture `[SIDE, SIDE, 3]`, uint8, of such a state.
    """

    def __init__(self, inner: environment.Environment, draw):
        self.inner = inner
        self.draw = draw

    @property
    def default_params(self):
        return self.inner.default_params

    def reset_env(self, key, params):
        _, state = self.inner.reset_env(key, params)
        return self.draw(state), state

    def step_env(self, key, state, action, params):
        _, state, *outcome = self.inner.step_env(key, state, action, params)
        return self.draw(state), state, *outcome

    def get_obs(self, state, params=None, key=None):
        return self.draw(state)

    def is_terminated(self, state, params):
        return self.inner.is_terminated(state, params)

    def is_truncated(self, state, params):
        return self.inner.is_truncated(state, params)

    @property
    def num_actions(self) -> int:
        return self.inner.num_actions

    def action_space(self, params=None):
        return self.inner.action_space(params)

    def observation_space(self, params):
        return spaces.Box(0, 255, (SIDE, SIDE, 3), jnp.uint8)


class CartPolePixels(Pixels):
    """gymnax's CartPole-v1, seen from the side."""

    name = "CartPole-pixels"

    def __init__(self):
        super().__init__(CartPole(), draw_cart_pole)


class PendulumPixels(Pixels):
    """gymnax's Pendulum-v1, seen from the front."""

    name = "Pendulum-pixels"

    def __init__(self):
        super().__init__(Pendulum(), draw_pendulum)


def draw_cart_pole(state):
    """6.4 m of the track, so cart and pole are in view wherever an episode can go.

    The pole is drawn three times as long as it is, half the picture's height: a degree of its angle
    then moves its tip by half a pixel.
    """
    x, y = pixel_centres(left=-3.2, top=4.8, pixel=0.1)
    x_cart = x - state.x
    return paint(
        (box(x, y + 0.45, half_width=2.8, half_height=0.05), GREY),
        (box(x_cart, y + 0.15, half_width=0.4, half_height=0.25), BLUE),
        (rod(x_cart, y, state.theta, length=3.0, width=0.3), ORANGE),
        (disc(x_cart, y, radius=0.12), BLACK),
        pixel=0.1,
    )


def draw_pendulum(state):
    """The whole circle of the rod, whose angle is anticlockwise from upright."""
    x, y = pixel_centres(left=-1.28, top=1.28, pixel=0.04)
    return paint(
        (rod(x, y, -state.theta, length=1.0, width=0.2), ORANGE),
        (disc(x, y, radius=0.06), BLACK),
        pixel=0.04,
    )


def pixel_centres(left, top, pixel):
    """Where the pixels are (m, y upwards): `[1, SIDE]` and `[SIDE, 1]`.

    Args:
      left, top: the picture's edges (m).
      pixel: the side of a pixel (m).
    """
    offset = pixel * (jnp.arange(SIDE) + 0.5)
    return left + offset[None, :], top - offset[:, None]


def box(x, y, half_width, half_height):
    """Signed distance to a rectangle about the origin, the larger of those along the two axes."""
    return jnp.maximum(jnp.abs(x) - half_width, jnp.abs(y) - half_height)


def disc(x, y, radius):
    """Signed distance to a disc about the origin."""
    return jnp.sqrt(x**2 + y**2) - radius


def rod(x, y, angle, length, width):
    """Signed distance to a thick line with round ends that starts at the origin.

    Args:
      angle: clockwise from upright (rad).
    """
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    along = jnp.clip(x * sin + y * cos, 0.0, length)
    return jnp.sqrt((x - along * sin) ** 2 + (y - along * cos) ** 2) - width / 2


def paint(*shapes, pixel, on=WHITE):
    """A picture `[SIDE, SIDE, 3]`, uint8, of shapes, each over the ones before it.

    Args:
      shapes: signed distances (m), `[SIDE, SIDE]`, and a colour each.
      pixel: the side of a pixel (m).
      on: the colour of what is behind them all.
    """
    picture = jnp.array(on, jnp.float32)
    for distance, colour in shapes:
        cover = jnp.clip(0.5 - distance / pixel, 0.0, 1.0)
        picture = mix(cover, picture, colour)
    return jnp.round(picture).astype(jnp.uint8)


def mix(share, one, other):
    """`[SIDE, SIDE, 3]`: from one colour at share 0 to the other at 1."""
    one, other = jnp.array(one, jnp.float32), jnp.array(other, jnp.float32)
    return one + share[..., None] * (other - one)
