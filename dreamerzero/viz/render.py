"""Pictures of observations. What an agent sees is enough to draw its world; no engine is needed.

A painter maps an episode's observations `[T, ...]` to T images. `painter` picks the one for an
environment: a scene where we know what the numbers mean, cells for grids and small images, and
otherwise the numbers themselves as running lines.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from dreamerzero.envs import Env
from dreamerzero.envs.mazes import Maze, draw
from dreamerzero.viz.colours import BLACK, GREY, PAPER, SERIES

BLUE, ORANGE, GREEN = SERIES[:3]
SMOOTH = 2  # scenes are drawn this much larger and shrunk, which softens their edges
SIDE = 240  # pixels along the longer side of a grid

Painter = Callable[[np.ndarray], Iterator[Image.Image]]


def painter(env: Env) -> tuple[Painter, int]:
    """How to draw observations of `env`, and how many of them a second."""
    paint, speed = _painter(env)
    return paint, max(1, round(speed / env.action_repeat))


def _painter(env: Env) -> tuple[Painter, int]:
    if env.name in SCENES:
        return SCENES[env.name]
    if isinstance(env.environment, Maze):
        return partial(maze, env), 10
    if len(env.spec.observation.shape) in (2, 3):
        return cells, 10
    return lines, 20


def cart_pole(observations, *, limit: float, low: float, pose) -> Iterator[Image.Image]:
    """A cart on its rail, `limit` metres to either side, with a pole of one metre."""
    for observation in observations:
        x, theta = pose(observation)
        scene = Scene(x=(-limit - 0.4, limit + 0.4), y=(low, 1.2))
        scene.line((-limit, 0), (limit, 0), 0.02, GREY)
        scene.box((x - 0.25, -0.1), (x + 0.25, 0.1), BLUE)
        scene.line((x, 0), (x + np.sin(theta), np.cos(theta)), 0.07, ORANGE)
        scene.disc((x, 0), 0.05, BLACK)
        yield scene.image()


def pendulum(observations) -> Iterator[Image.Image]:
    """A rod of one metre around its pivot; the angle is anticlockwise from upright."""
    for cos, sin, _ in observations:
        scene = Scene(x=(-1.2, 1.2), y=(-1.2, 1.2))
        scene.line((0, 0), (-sin, cos), 0.12, ORANGE)
        scene.disc((-sin, cos), 0.06, ORANGE)
        scene.disc((0, 0), 0.06, BLACK)
        yield scene.image()


def maze(env, observations) -> Iterator[Image.Image]:
    """The walls in force at each step, the goal and the agent."""
    drawings = [draw(plan, env.environment.scale) for plan in env.environment.plans]
    for step, position in enumerate(observations):
        changed = step * env.action_repeat >= env.params.change_at
        drawing = drawings[-1 if changed else 0]
        picture = np.full((*drawing.shape, 3), rgb("#eeeeee"))
        picture[drawing == "#"] = rgb("#444444")
        picture[drawing == "S"] = rgb(GREY)
        picture[drawing == "G"] = rgb(GREEN)
        picture.reshape(-1, 3)[position] = rgb(ORANGE)
        yield enlarge(picture)


def cells(observations, side: int = SIDE) -> Iterator[Image.Image]:
    """Bytes `[H, W, 3]` as they are; of anything else each channel in a colour of its own."""
    if observations.dtype == np.uint8 and observations.shape[3:] == (3,):
        yield from (enlarge(picture, side) for picture in observations)
        return
    strength = observations.astype(np.float32).reshape(*observations.shape[:3], -1)
    strength = np.clip(strength / max(strength.max(), 1e-6), 0.0, 1.0)
    for channels in strength:
        picture = np.zeros((*channels.shape[:2], 3))
        for colour, alpha in zip(itertools.cycle(SERIES), np.moveaxis(channels, -1, 0)):
            picture += alpha[..., None] * (rgb(colour) - picture)
        yield enlarge(picture, side)


def lines(observations, history: int = 100, most: int = 12) -> Iterator[Image.Image]:
    """The first `most` numbers of each observation over the last `history` steps, in strips.

    Each strip is scaled to the range of its number in the episode.
    """
    series = observations.reshape(len(observations), -1)[:, :most].astype(np.float64)
    low, high = series.min(axis=0), series.max(axis=0)
    series = np.where(high > low, (series - low) / np.maximum(high - low, 1e-12), 0.5)
    count = series.shape[1]
    height = 0.8 if count == 1 else 2.4 / count
    for step in range(len(series)):
        scene = Scene(x=(0, 4), y=(0, height * count))
        window = series[max(0, step - history) : step + 1]
        times = 3.9 * np.arange(len(window)) / history
        for row, values in enumerate(window.T):
            base, colour = height * (count - 1 - row), SERIES[row % len(SERIES)]
            heights = base + height * (0.1 + 0.8 * values)
            scene.line((0, base), (4, base), 0.01, GREY)
            scene.path(np.stack([times, heights], axis=-1), 0.03, colour)
            scene.disc((times[-1], heights[-1]), 0.04, colour)
        yield scene.image()


class Scene:
    """A sheet of paper in metres, y upwards, at 80 pixels a metre."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], pixels: int = 80):
        self.left, self.top, self.pixels = x[0], y[1], pixels * SMOOTH
        self.size = round((x[1] - x[0]) * pixels), round((y[1] - y[0]) * pixels)
        self.sheet = Image.new("RGB", tuple(SMOOTH * side for side in self.size), PAPER)
        self.pen = ImageDraw.Draw(self.sheet)

    def at(self, point) -> tuple[float, float]:
        return (point[0] - self.left) * self.pixels, (self.top - point[1]) * self.pixels

    def path(self, points, width: float, colour: str):
        width = max(1, round(width * self.pixels))
        self.pen.line([self.at(point) for point in points], colour, width, joint="curve")

    def line(self, start, end, width: float, colour: str):
        self.path([start, end], width, colour)

    def box(self, lower, upper, colour: str):
        (left, bottom), (right, top) = self.at(lower), self.at(upper)
        self.pen.rectangle((left, top, right, bottom), colour)

    def disc(self, centre, radius: float, colour: str):
        self.pen.circle(self.at(centre), radius * self.pixels, colour)

    def image(self) -> Image.Image:
        return self.sheet.resize(self.size, Image.Resampling.BOX)


def enlarge(picture: np.ndarray, side: int = SIDE) -> Image.Image:
    """`[H, W, 3]` with colours in 0 … 255, each cell made a square of whole pixels.

    The longer side becomes `side` pixels, or nearly.
    """
    factor = max(1, side // max(picture.shape[:2]))
    image = Image.fromarray(picture.astype(np.uint8))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def rgb(colour: str) -> np.ndarray:
    """`#rrggbb` as three numbers in 0 … 255."""
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], float)


SCENES: dict[str, tuple[Painter, int]] = {
    "CartPole-v1": (
        partial(cart_pole, limit=2.4, low=-0.3, pose=lambda o: (o[0], o[2])),
        50,
    ),
    "CartPoleSwingup-v0": (
        partial(cart_pole, limit=1.8, low=-1.2, pose=lambda o: (o[0], np.arctan2(o[2], o[1]))),
        100,
    ),
    "Pendulum-v1": (pendulum, 20),
    "CartPole-pixels": (cells, 50),
    "Pendulum-pixels": (cells, 20),
    "CarTrack-v0": (cells, 20),
    "TakeCover-v0": (cells, 35),
}
