"""Dreams as pictures: what the world foretold beside what came, and what the agent imagined.

Images become a film of tiles, and so do the scenes that we know how to draw; vectors and integers
become a plot over time, with what the sampled futures leave open.
"""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from dreamerzero.training import dreams
from dreamerzero.training.dreams import CONTEXT
from dreamerzero.types import Discrete, UsageError
from dreamerzero.viz.colours import BLACK, GREY, PAPER, SERIES
from dreamerzero.viz.render import SCENES, cells, painter

BLUE, ORANGE = SERIES[:2]
EPISODES = 4  # side by side in a film
FUTURES = 16  # behind the band of a plot
COORDINATES = 6  # of a vector are plotted
SPEED = 10  # frames a second: slow enough to compare
TILE = 160  # pixels along the longer side of a film's tile
EDGE = 3  # pixels of the border that marks the context
LEFT, TOP = 84, 26  # room for the names of the rows, and for the caption
TEMPERATURES = {"cold: 0.1": 0.1, "hot: 1.3": 1.3}
"""Of further dreams, if those of an agent have a temperature."""


def draw(agent, params, env, key, path) -> Path:
    """Lets the agent play and its world dream, and draws both.

    Args:
      params: of one run.
      path: ends in .gif, or for vectors and integers in .png.
    Returns:
      `path`.
    Raises:
      UsageError: if nothing can be written with that ending, or every episode is over before
        there is anything to foretell.
    """
    path = Path(path)
    check(env, path)
    films = path.suffix.lower() == ".gif" and (_shows_images(env) or env.name in SCENES)
    sizes = (EPISODES, 1) if films else (1, FUTURES)
    dream, imagination = jax.device_get(dreams.dream(agent, params, env, key, *sizes))
    if not dream.under_way[CONTEXT:].any():
        raise UsageError(
            f"Every episode of {env.name} is over within {CONTEXT} frames: there is nothing to "
            "foretell, and no dream to draw."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if films:
        imagined = {"imagination": imagination}
        if hasattr(agent, "temperature"):
            for name, value in TEMPERATURES.items():
                other = agent.replace(temperature=value)
                imagined[name] = jax.device_get(dreams.dream(other, params, env, key, *sizes))[1]
        frames = list(film(env, dream, imagined))
        pause = [1000 // SPEED] * (len(frames) - 1) + [1500]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=pause, loop=0)
    else:
        drawn = io.BytesIO()
        plot(env, dream, imagination).savefig(drawn, format="png")
        Image.open(drawn).convert("RGB").save(path)
    return path


def check(env, path) -> None:
    """Raises UsageError if a dream of `env` cannot be written to a file of that name."""
    allowed = (".gif",) if _shows_images(env) else (".png", ".gif")
    if Path(path).suffix.lower() not in allowed:
        raise UsageError(
            f"Cannot write {path}: end its name in {' or '.join(allowed)} for dreams of {env.name}."
        )


def usual(env) -> str:
    """The ending of the picture that says most about dreams of `env`."""
    return ".gif" if _shows_images(env) else ".png"


def film(env, dream: dreams.Dream, imagined: dict[str, dreams.Imagination]):
    """One image for each frame: a row for each thing to compare, a column for each episode.

    A border marks the context, where the agent sees and the world reconstructs. A tile is blank
    when the episode is over, in truth or in the agent's imagination.
    """
    context = dream.reconstruction[:CONTEXT]
    rows = {
        "truth": dream.observation,
        "prediction": np.concatenate([context, dream.prediction[0]]),
    }
    if _shows_images(env):
        difference = np.abs(rows["prediction"] - rows["truth"])
        rows["error"] = env.spec.observation.low + difference
    shown = dict.fromkeys(rows, dream.under_way)
    for name, imagination in imagined.items():
        rows[name] = np.concatenate([context, imagination.observation[0]])
        goes_on = imagination.going_on[0] > 0.5
        shown[name] = np.concatenate([dream.under_way[:CONTEXT], goes_on])
    paint = partial(cells, side=TILE) if _shows_images(env) else painter(env)[0]
    length = np.flatnonzero(np.any([mask.any(axis=1) for mask in shown.values()], axis=0))[-1] + 1
    stack = np.stack([row[:length] for row in rows.values()], axis=1)  # [F, rows, B, ...]
    if env.spec.observation.dtype == "uint8":
        stack = np.clip(np.round(stack), 0, 255).astype(np.uint8)
    images = paint(stack.reshape(-1, *stack.shape[3:]))
    visible = np.stack([mask[:length] for mask in shown.values()], axis=1)
    for frame in range(length):
        yield _sheet(env, frame, list(rows), visible[frame], images)


def _sheet(env, frame: int, names: list[str], visible, images) -> Image.Image:
    """The next tiles from `images`, where they are `visible [rows, B]`."""
    font = ImageFont.load_default(size=13)
    sheet = None
    for row, name in enumerate(names):
        for column, alive in enumerate(visible[row]):
            tile = next(images)
            tile.thumbnail((TILE, TILE), Image.Resampling.BOX)
            width, height = tile.width + 2 * EDGE + 2, tile.height + 2 * EDGE + 2
            if sheet is None:
                size = max(LEFT + width * visible.shape[1], 300), TOP + height * len(names)
                sheet = Image.new("RGB", size, PAPER)
                pen = ImageDraw.Draw(sheet)
            left, top = LEFT + column * width, TOP + row * height
            border = ORANGE if frame < CONTEXT else GREY
            pen.rectangle((left, top, left + width - 3, top + height - 3), border)
            if alive:
                sheet.paste(tile, (left + EDGE, top + EDGE))
            else:
                corner = left + EDGE + tile.width - 1, top + EDGE + tile.height - 1
                pen.rectangle((left + EDGE, top + EDGE, *corner), PAPER)
        pen.text((6, TOP + row * height + height // 2 - 9), name, BLACK, font)
    seen = f"seen: frame {frame + 1} of {CONTEXT}"
    ahead = f"not seen: {frame - CONTEXT + 1} ahead"
    pen.text((6, 5), f"{env.name}   {seen if frame < CONTEXT else ahead}", BLACK, font)
    return sheet.quantize(128, Image.Quantize.FASTOCTREE)


def plot(env, dream: dreams.Dream, imagination: dreams.Imagination) -> Figure:
    """The first episode over time: predictions on the left, the agent's imagination on the right.

    Lines are medians, bands the 5th to 95th percentile of the sampled futures.
    """
    length = int(dream.under_way[:, 0].sum())
    going_on = imagination.going_on[:, :, 0].mean(axis=0) > 0.5
    ends = length, CONTEXT + int(going_on.sum())
    futures = (
        (dream.prediction[:, :, 0], dream.predicted_reward[:, :, 0]),
        (imagination.observation[:, :, 0], imagination.reward[:, :, 0]),
    )
    integers = isinstance(env.spec.observation, Discrete)
    count = 1 if integers else min(COORDINATES, dream.observation.shape[-1])
    heights = [3.0 if integers else 1.3] * count + [1.3]
    figure = Figure(figsize=(10, 0.9 + sum(heights)), dpi=110, layout="constrained")
    axes = figure.subplots(
        count + 1, 2, sharex=True, sharey="row", squeeze=False, height_ratios=heights
    )
    truth, seen = dream.observation[:length, 0], dream.reconstruction[:CONTEXT, 0]
    for side, (observation, reward) in enumerate(futures):
        end = ends[side]
        if integers:
            _probabilities(axes[0, side], truth, seen, observation.mean(axis=0), end)
        else:
            for row in range(count):
                future = observation[:, : end - CONTEXT, row]
                _lines(axes[row, side], truth[:, row], future, seen[:, row])
                axes[row, 0].set_ylabel(f"x[{row}]")
        came = np.append(np.nan, dream.reward[1:length, 0])  # the first frame pays nothing
        _lines(axes[-1, side], came, reward[:, : end - CONTEXT])
        axes[-1, side].set_xlabel("step")
    axes[-1, 0].set_ylabel("reward")
    axes[0, 0].set_title("prediction: the actions that were taken", fontsize=10)
    axes[0, 1].set_title("imagination: the actions the agent dreams of", fontsize=10)
    figure.suptitle(f"{env.name}: {CONTEXT} frames seen, the rest dreamt", fontsize=11)
    named = axes[0, 0].get_legend_handles_labels()
    figure.legend(*named, loc="outside lower center", ncols=5, frameon=False)
    return figure


def _lines(axes, truth, futures, seen=None) -> None:
    """One number: `truth [L]`, `futures [S, N]` after it was `seen` in the context."""
    axes.axvspan(0, CONTEXT - 1, color=GREY, alpha=0.35, lw=0, label="context")
    axes.plot(truth, color=BLACK, lw=1.2, label="truth")
    if seen is not None:
        axes.plot(seen, color=ORANGE, lw=1.2, label="reconstruction")
    times = CONTEXT + np.arange(futures.shape[1])
    low, middle, high = np.quantile(futures, [0.05, 0.5, 0.95], axis=0)
    axes.fill_between(times, low, high, color=BLUE, alpha=0.25, lw=0, label="5–95% of futures")
    axes.plot(times, middle, color=BLUE, lw=1.2, label="median")
    axes.spines[["top", "right"]].set_visible(False)


def _probabilities(axes, truth, seen, foretold, end: int) -> None:
    """Class probabilities over time as shades, and the classes that came as dots."""
    shades = np.concatenate([seen, foretold])[:end]
    axes.imshow(shades.T, aspect="auto", origin="lower", cmap="Blues", vmin=0, vmax=1)
    axes.axvline(CONTEXT - 0.5, color=ORANGE, lw=1, label="end of the context")
    axes.plot(truth.argmax(axis=-1), "o", color=BLACK, ms=2.5, label="truth")
    axes.set_ylabel("class")


def _shows_images(env) -> bool:
    return len(env.spec.observation.shape) in (2, 3)
