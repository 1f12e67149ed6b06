"""CMA-ES, against the tutorial written out in numpy and on functions whose optimum is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero.planning import Evolution
from dreamerzero.types import UsageError

ask, tell = jax.jit(Evolution.ask), jax.jit(Evolution.tell)


@partial(jax.jit, static_argnums=(1, 4))
def evolve(evolution, fitness, mean, key, generations):
    """The means `[G, D]` and σ `[G]` of a search inside of a scan."""

    def generation(state, key):
        ask_key, fitness_key = jax.random.split(key)
        candidates, state = evolution.ask(ask_key, state)
        state = evolution.tell(state, candidates, fitness(fitness_key, candidates))
        return state, (state.mean, state.std)

    keys = jax.random.split(key, generations)
    return jax.lax.scan(generation, evolution.init(mean), keys)[1]


def sphere(key, x):
    return -jnp.sum(jnp.square(x), axis=-1)


def ellipsoid(rotation, key, x):
    """Curvatures from 1 to 10⁴ along the columns of `rotation`."""
    curvature = 10.0 ** jnp.linspace(0.0, 4.0, x.shape[-1])
    return -jnp.sum(curvature * jnp.square(x @ rotation), axis=-1)


STRAIGHT = np.eye(10, dtype=np.float32)
ROTATED = np.linalg.qr(np.random.default_rng(0).normal(size=(10, 10)))[0].astype(np.float32)
straight, rotated = partial(ellipsoid, STRAIGHT), partial(ellipsoid, ROTATED)


def reached(fitness, means, level):
    """The first generation whose mean is so fit, or infinity."""
    good = np.asarray(jax.vmap(partial(fitness, None))(means)) > level
    return np.argmax(good) if good.any() else np.inf


class Tutorial:
    """Hansen 2016, appendix A: one generation in float64, of a full C or of its diagonal."""

    def __init__(self, mean, std, population, separable):
        n, self.separable = len(mean), separable
        self.mean, self.std, self.c = np.float64(mean), std, np.eye(n)
        self.p_c, self.p_std, self.generation = np.zeros(n), np.zeros(n), 0
        weights = np.log((population + 1) / 2) - np.log(np.arange(1, population + 1))
        mu = population // 2
        self.mu_eff = weights[:mu].sum() ** 2 / (weights[:mu] ** 2).sum()
        mu_neg = weights[mu:].sum() ** 2 / (weights[mu:] ** 2).sum()
        self.c_c = (4 + self.mu_eff / n) / (n + 4 + 2 * self.mu_eff / n)
        self.c_1 = 2 / ((n + 1.3) ** 2 + self.mu_eff)
        self.c_mu = 2 * (self.mu_eff + 1 / self.mu_eff - 2) / ((n + 2) ** 2 + self.mu_eff)
        negative = min(
            1 + self.c_1 / self.c_mu,
            1 + 2 * mu_neg / (self.mu_eff + 2),
            (1 - self.c_1 - self.c_mu) / n / self.c_mu,
        )
        self.weights = np.where(weights >= 0, weights / weights[weights > 0].sum(), 0.0)
        if not separable:
            self.weights -= negative * np.where(
                weights < 0, weights / weights[weights < 0].sum(), 0
            )
        else:
            self.c_1 *= (n + 2) / 3
            self.c_mu = min(1 - self.c_1, self.c_mu * (n + 2) / 3)
        self.c_std = (self.mu_eff + 2) / (n + self.mu_eff + 5)
        self.damping = 1 + 2 * max(0, np.sqrt((self.mu_eff - 1) / (n + 1)) - 1) + self.c_std
        self.chi = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))

    def tell(self, candidates, fitness):
        n = len(self.mean)
        y = (candidates[np.argsort(-fitness)] - self.mean) / self.std
        length, axes = np.linalg.eigh(self.c)
        root = axes @ np.diag(length**-0.5) @ axes.T
        step = np.maximum(self.weights, 0) @ y
        self.mean = self.mean + self.std * step
        gain = np.sqrt(self.c_std * (2 - self.c_std) * self.mu_eff)
        self.p_std = (1 - self.c_std) * self.p_std + gain * root @ step
        norm = np.linalg.norm(self.p_std)
        self.generation += 1
        fresh = np.sqrt(1 - (1 - self.c_std) ** (2 * (self.generation + 1)))
        moving = norm / fresh < (1.4 + 2 / (n + 1)) * self.chi
        gain = np.sqrt(self.c_c * (2 - self.c_c) * self.mu_eff)
        self.p_c = (1 - self.c_c) * self.p_c + moving * gain * step
        outer = np.outer(self.p_c, self.p_c)
        scale = n / (np.square(y @ root)).sum(axis=1)
        weights = np.where(self.weights >= 0, self.weights, self.weights * scale)
        many = sum(w * np.outer(row, row) for w, row in zip(weights, y))
        keep = 1 + self.c_1 * (1 - moving) * self.c_c * (2 - self.c_c)
        keep -= self.c_1 + self.c_mu * self.weights.sum()
        self.c = keep * self.c + self.c_1 * outer + self.c_mu * many
        if self.separable:
            self.c = np.diag(np.diag(self.c))
        self.std *= np.exp(self.c_std / self.damping * (norm / self.chi - 1))


@pytest.mark.parametrize("separable", [False, True])
def test_a_generation_is_that_of_the_tutorial(separable):
    evolution = Evolution(dims=10, population=12, separable=separable, std=0.5)
    mean = jnp.linspace(-1.0, 2.0, 10)
    state, tutorial = evolution.init(mean), Tutorial(mean, 0.5, 12, separable)
    for generation in range(8):
        candidates, state = ask(evolution, jax.random.key(generation), state)
        fitness = straight(None, candidates)
        state = tell(evolution, state, candidates, fitness)
        tutorial.tell(np.float64(candidates), np.float64(fitness))
        np.testing.assert_allclose(state.mean, tutorial.mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(state.std, tutorial.std, rtol=1e-3)
        expected = np.diag(tutorial.c) if separable else tutorial.c
        np.testing.assert_allclose(state.C, expected, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("separable", [False, True])
def test_candidates_are_drawn_from_what_was_learnt(separable):
    evolution = Evolution(dims=3, population=40_000, separable=separable)
    c = np.diag([4.0, 1.0, 0.25])
    if not separable:
        c[0, 1] = c[1, 0] = 1.5
    state = evolution.init(jnp.array([5.0, 0.0, -5.0])).replace(
        std=jnp.float32(0.2), C=jnp.float32(np.diag(c) if separable else c)
    )
    candidates, _ = ask(evolution, jax.random.key(0), state)
    np.testing.assert_allclose(candidates.mean(axis=0), [5.0, 0.0, -5.0], atol=0.01)
    np.testing.assert_allclose(np.cov(candidates.T), 0.04 * c, atol=0.005)


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_it_finds_the_middle_of_a_sphere(separable, mirrored):
    evolution = Evolution(dims=10, population=12, separable=separable, mirrored=mirrored)
    means, _ = evolve(evolution, sphere, jnp.full(10, 3.0), jax.random.key(0), 250)
    assert abs(means[-1]).max() < 1e-3


def test_only_a_full_covariance_learns_what_is_not_along_the_axes():
    full, separable = (
        Evolution(dims=10, population=12, separable=separable, std=1.0)
        for separable in (False, True)
    )
    start, key = jnp.ones(10), jax.random.key(0)
    lasts = {
        (kind.separable, function is rotated): reached(
            function, evolve(kind, function, start, key, 1500)[0], -1e-4
        )
        for kind in (full, separable)
        for function in (straight, rotated)
    }
    assert lasts[False, False] < 500 and lasts[False, True] < 500
    assert lasts[True, False] < 0.8 * lasts[False, False]  # fewer numbers to learn
    assert lasts[True, True] > 2 * lasts[False, True]


def test_it_gets_near_where_fitness_is_noise_for_the_most_part():
    def noisy(key, x):
        return sphere(key, x) + 0.5 * jax.random.normal(key, x.shape[:1])

    keys = jax.random.split(jax.random.key(0), 64)  # one search alone may end twice as far
    for mirrored in (False, True):
        evolution = Evolution(dims=10, population=32, mirrored=mirrored, std=0.3)
        search = partial(evolve, evolution, noisy, jnp.full(10, 2.0), generations=150)
        means, _ = jax.vmap(search)(keys)
        assert jnp.square(means[:, -20:].mean(axis=1)).sum(axis=-1).mean() < 0.15


@pytest.mark.parametrize("wrong", [jnp.nan, jnp.inf, -jnp.inf])
def test_what_is_not_finite_ranks_last(wrong):
    evolution = Evolution(dims=4, population=8)
    candidates, state = ask(evolution, jax.random.key(0), evolution.init(jnp.zeros(4)))
    fitness = sphere(None, candidates)
    worst = jnp.array([2, 5])
    spoilt = tell(evolution, state, candidates, fitness.at[worst].set(wrong))
    last = tell(evolution, state, candidates, fitness.at[worst].set(jnp.array([-98.0, -99.0])))
    jax.tree.map(np.testing.assert_array_equal, spoilt.mean, last.mean)
    jax.tree.map(np.testing.assert_array_equal, spoilt.C, last.C)
    hopeless = tell(evolution, state, candidates, jnp.full(8, wrong))
    assert jnp.isfinite(hopeless.mean).all() and hopeless.std > 0


@pytest.mark.parametrize("mirrored", [False, True])
def test_chance_and_equal_fitness_change_no_width(mirrored):
    evolution = Evolution(dims=40, population=32, separable=True, mirrored=mirrored)
    for fitness in (lambda key, x: jax.random.normal(key, x.shape[:1]), lambda key, x: 0 * x[:, 0]):
        means, std = evolve(evolution, fitness, jnp.zeros(40), jax.random.key(0), 100)
        assert 0.03 < std[-1] < 0.3
        assert abs(means[-1]).max() < 1.0


def test_mirrored_candidates_are_pairs_around_the_mean():
    evolution = Evolution(dims=5, population=8, mirrored=True)
    mean = jnp.arange(5.0)
    candidates, _ = ask(evolution, jax.random.key(0), evolution.init(mean))
    np.testing.assert_allclose(candidates[:4] + candidates[4:], 2.0 * np.tile(mean, (4, 1)))
    assert len(np.unique(candidates[:, 0])) == 8


def test_a_lane_is_the_single_search():
    evolution = Evolution(dims=6, population=8)
    keys = jax.random.split(jax.random.key(0), 3)
    search = partial(evolve, evolution, sphere, jnp.ones(6), generations=20)
    lanes, _ = jax.vmap(lambda key: search(key=key))(keys)
    np.testing.assert_allclose(lanes[1], search(key=keys[1])[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("population", "mirrored"), [(3, False), (7, True)])
def test_populations_that_cannot_evolve_are_refused(population, mirrored):
    with pytest.raises(UsageError, match=f"population.*got {population}"):
        Evolution(dims=2, population=population, mirrored=mirrored).check()
