"""A greedy episode as an animated picture."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dreamerzero.envs import HostEnv
from dreamerzero.envs.boards import Board
from dreamerzero.training import hosting
from dreamerzero.types import UsageError
from dreamerzero.viz import boards
from dreamerzero.viz.colours import BLACK, PAPER
from dreamerzero.viz.render import SIDE, painter

STEPS = 500
"""What a video shows at most; a longer episode is cut."""

FASTEST = 50  # pictures a second; GIF viewers slow faster ones down to 10


def check(env, path) -> None:
    """Raises UsageError for a file that no video of `env` can be."""
    suffix = ".svg" if _is_board(env) else ".gif"
    if Path(path).suffix.lower() != suffix:
        raise UsageError(
            f"Cannot write {path}: videos of {env.name} are {suffix[1:].upper()}s, so end its name "
            f"in {suffix}."
        )


def record(agent, params, env, key, path) -> float:
    """Plays one episode with greedy or mean actions and writes it as a GIF, or as an SVG if it is
    a board game, which the agent plays against itself.

    Args:
      params: what the agent acts with, of one run.
      path: the file, ending in .gif or .svg.
    Returns:
      The return of what is shown: the episode, or its first `STEPS` steps. Of a board game it is
      the last move's reward.
    """
    check(env, path)
    path = Path(path)
    if _is_board(env):
        return boards.record(agent, params, env, key, path)
    images, rewards, speed = (_filmed if isinstance(env, HostEnv) else _painted)(
        agent, params, env, key
    )
    returns = np.concatenate([[0.0], np.cumsum(rewards, dtype=np.float64)])
    stride = -(-speed // FASTEST)
    images = [
        caption(image, f"{env.name}   step {step}   return {returns[step]:.4g}")
        for step, image in enumerate(images)
        if step % stride == 0 or step == len(rewards)
    ]
    durations = [1000 * stride // speed] * (len(images) - 1) + [1500]
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)
    return float(returns[-1])


def _is_board(env) -> bool:
    return isinstance(getattr(env, "environment", None), Board)


def _painted(agent, params, env, key):
    """An episode's images, from the first to the final observation, its rewards, and images a
    second."""
    observations, rewards, is_last = jax.device_get(play(agent, params, env, key, STEPS))
    ends = np.flatnonzero(is_last)
    length = ends[0] + 1 if ends.size else STEPS
    paint, speed = painter(env)
    return paint(observations[: length + 1]), rewards[:length], speed


def _filmed(agent, params, env, key):
    """The same of an environment on the host, which draws itself, but for the final image."""
    images, rewards = [], []
    for picture, reward in itertools.islice(hosting.film(agent, params, env, key), STEPS):
        image = Image.fromarray(picture)
        image.thumbnail((SIDE, SIDE))
        images.append(image)
        rewards.append(reward)
    return images, rewards, max(1, round(env.frames_per_s / env.action_repeat))


@partial(jax.jit, static_argnames="steps")
def play(agent, params, env, key, steps: int):
    """Acts for `steps` steps in a fresh environment, from one episode on into the next.

    Returns:
      Observations `[steps + 1, ...]`, where an episode's end shows its final observation; rewards
      `[steps]`; which steps ended an episode `[steps]`.
    """
    reset_key, run_key = jax.random.split(key)
    env_state, first = env.reset(reset_key)

    def step(carry, key):
        env_state, timestep, memory = carry
        act_key, env_key = jax.random.split(key)
        batch = jax.tree.map(lambda x: x[None], timestep)
        action, memory, _ = agent.act(params, act_key, batch, memory, explore=False)
        env_state, timestep, successor = env.step(env_key, env_state, action[0])
        seen = successor.observation, successor.reward, successor.is_last
        return (env_state, timestep, memory), seen

    carry = env_state, first, agent.memory(1)
    _, (observations, rewards, is_last) = jax.lax.scan(
        step, carry, jax.random.split(run_key, steps)
    )
    observations = jax.numpy.concatenate([first.observation[None], observations])
    return observations, rewards, is_last


def caption(image: Image.Image, text: str) -> Image.Image:
    """The picture on paper under a line of text, in few enough colours for a small file."""
    font = ImageFont.load_default(size=13)
    width = max(image.width, 300)
    sheet = Image.new("RGB", (width, image.height + 24), PAPER)
    sheet.paste(image, ((width - image.width) // 2, 24))
    ImageDraw.Draw(sheet).text((6, 4), text, BLACK, font)
    return sheet.quantize(64, Image.Quantize.FASTOCTREE)
