import jax
import numpy as np
import pytest
from PIL import Image

from dreamerzero import envs
from dreamerzero.agents.world_models import WorldModels
from dreamerzero.training.dreams import CONTEXT, STEPS, Dream, Imagination
from dreamerzero.types import Discrete, UsageError
from dreamerzero.viz import dreams
from tests.training.test_dreams import known

FUTURE = STEPS - CONTEXT


def made_up(env, episodes, futures, length=STEPS, dreamt=FUTURE):
    """Noise in the shape of dreams, of episodes of `length` frames, imagined for `dreamt`."""
    rng = np.random.default_rng(0)
    spec = env.spec.observation
    shape = (spec.num,) if isinstance(spec, Discrete) else spec.shape
    low, high = (0.0, 1.0) if isinstance(spec, Discrete) else (spec.low, spec.high)
    low, high = (0.0, 1.0) if np.ndim(low) or high > 1e6 else (low, high)

    def shown(*axes):
        return rng.uniform(low, high, (*axes, *shape)).astype(np.float32)

    under_way = np.broadcast_to(np.arange(STEPS)[:, None] < length, (STEPS, episodes))
    reward = rng.normal(size=(futures, FUTURE, episodes))
    dream = Dream(
        shown(STEPS, episodes),
        rng.normal(size=(STEPS, episodes)),
        under_way,
        under_way,
        shown(STEPS, episodes),
        shown(futures, FUTURE, episodes),
        reward,
    )
    going_on = np.broadcast_to((np.arange(FUTURE) < dreamt)[:, None] * 1.0, reward.shape)
    return dream, Imagination(shown(futures, FUTURE, episodes), reward, going_on)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws made-up dreams of an environment into a file, and opens it."""

    def draw(name, suffix, agent=None, **lengths):
        env = envs.make(name)
        monkeypatch.setattr(
            dreams.dreams, "dream", lambda a, p, env, key, *sizes: made_up(env, *sizes, **lengths)
        )
        return Image.open(dreams.draw(agent, None, env, None, tmp_path / f"dream{suffix}"))

    return draw


@pytest.mark.parametrize("name", ["Catch-bsuite", "Breakout-MinAtar", "CartPole-pixels"])
def test_images_become_a_film_until_truth_and_dream_are_over(drawn, name):
    film = drawn(name, ".gif", length=12, dreamt=10)
    assert film.n_frames == CONTEXT + 10
    narrow = film.size
    film.seek(film.n_frames - 1)
    assert film.size == narrow


def test_dreams_that_have_a_temperature_are_shown_at_others_too(drawn):
    usual = drawn("CartPole-pixels", ".gif").height - dreams.TOP
    agent = WorldModels(spec=envs.make("CartPole-pixels").spec)
    assert drawn("CartPole-pixels", ".gif", agent).height - dreams.TOP == usual * 6 / 4


def test_scenes_become_a_film_or_a_plot(drawn):
    assert drawn("Pendulum-v1", ".gif").n_frames == STEPS
    assert drawn("Pendulum-v1", ".png").format == "PNG"


@pytest.mark.parametrize("name", ["FrozenLake-misc", "Reacher-misc"])
def test_vectors_and_integers_become_a_plot(drawn, name):
    plot = drawn(name, ".gif", length=8, dreamt=1)
    assert (plot.format, plot.n_frames) == ("GIF", 1)
    assert drawn(name, ".png").format == "PNG"


def test_a_border_marks_the_context():
    env = envs.make("Catch-bsuite")
    dream, imagination = made_up(env, 4, 1)
    film = dreams.film(env, dream, {"imagination": imagination})
    frames = [frame.convert("RGB") for frame in film]
    corner = dreams.LEFT, dreams.TOP
    seen = frames[CONTEXT - 1].getpixel(corner)
    assert frames[0].getpixel(corner) == seen != frames[CONTEXT].getpixel(corner)


def test_what_cannot_be_drawn_is_said(drawn, tmp_path):
    with pytest.raises(UsageError, match=r"in \.gif for dreams of Catch-bsuite"):
        dreams.check(envs.make("Catch-bsuite"), tmp_path / "dream.png")
    with pytest.raises(UsageError, match=r"\.png or \.gif"):
        dreams.check(envs.make("CartPole-v1"), tmp_path / "dream.mp4")
    agent, params, env = known(CONTEXT - 1)
    with pytest.raises(UsageError, match="nothing to foretell"):
        dreams.draw(agent, params, env, jax.random.key(0), tmp_path / "dream.png")
