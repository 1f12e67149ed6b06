"""Planners against known optima, and the score against a plain loop in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import envs
from dreamerzero.planning import (
    Plan,
    cem,
    coloured_noise,
    icem,
    mppi,
    random_shooting,
    scorer,
    shift,
)
from dreamerzero.types import Prediction

HORIZON, KEPT = 3, 3
LOW, HIGH = np.float32([-1.0, -2.0]), np.float32([1.0, 0.5])
SIZES = {"population": 64, "elites": 8, "iterations": 6}
THOROUGH = {"population": 400, "elites": 20, "iterations": 12}


def search(name, key, score, mean=None, low=LOW, high=HIGH, horizon=HORIZON, **changes):
    """One planner with its usual numbers, from the middle of the bounds."""
    sizes = {**SIZES, **changes}
    if name == "random":
        population = sizes["population"] * sizes["iterations"]
        return random_shooting(key, score, low, high, population=population, horizon=horizon)
    low, high = jnp.asarray(low), jnp.asarray(high)
    shape = (horizon, *low.shape)
    mean = jnp.broadcast_to((low + high) / 2, shape) if mean is None else mean
    std = jnp.broadcast_to((high - low) / 4, shape)
    if name == "cem":
        return cem(key, score, mean, std, low, high, **{"alpha": 0.1, **sizes})
    if name == "icem":
        kept = sizes.pop("kept", jnp.broadcast_to(mean, (KEPT, *shape)))
        sizes = {"decay": 1.25, "beta": 0.5, "alpha": 0.1, **sizes}
        return icem(key, score, mean, std, kept, low, high, **sizes)
    sizes = {"temperature": 1.0, "min_std": 0.01, "max_std": 2.0, **sizes}
    return mppi(key, score, mean, std, low, high, **sizes)


def found(name, score, seed=0, **changes):
    """The same, compiled."""
    return jax.jit(lambda key: search(name, key, score, **changes))(jax.random.key(seed))


PLANNERS = ["random", "cem", "icem", "mppi"]
REFINING = PLANNERS[1:]


def quadratic(centre):
    """−Σ (a − centre)², whose optimum within bounds is `clip(centre)`."""
    return lambda key, actions: -jnp.sum((actions - centre) ** 2, axis=(1, 2))


def centre(seed=0, low=LOW, high=HIGH):
    rng = np.random.default_rng(seed)
    return np.float32(rng.uniform(0.8 * low, 0.8 * high, (HORIZON, 2)))


class Recorder:
    """A score that remembers every population; call the planner under `jax.disable_jit`."""

    def __init__(self, score):
        self.score, self.populations, self.returns = score, [], []

    def __call__(self, key, actions):
        returns = self.score(key, actions)
        self.populations.append(np.asarray(actions))
        self.returns.append(np.asarray(returns))
        return returns


def record(name, score, seed=0, **changes):
    recorder = Recorder(score)
    with jax.disable_jit():
        plan = search(name, jax.random.key(seed), recorder, **changes)
    return recorder, plan


# Known optima


@pytest.mark.parametrize("name", REFINING)
def test_finds_the_centre_of_a_quadratic(name):
    plan = found(name, quadratic(centre()), **THOROUGH)
    np.testing.assert_allclose(plan.actions, centre(), atol=0.02)
    assert np.abs(centre() - (LOW + HIGH) / 2).min() > 0.05  # not where it starts


@pytest.mark.parametrize("name", REFINING)
def test_finds_an_optimum_that_lies_on_the_bounds(name):
    corner = np.where(np.float32([[1, 0], [0, 1], [1, 1]]) > 0, HIGH, LOW)
    beyond = corner + 0.3 * (corner - (LOW + HIGH) / 2)
    slow = {} if name == "mppi" else {"alpha": 0.4}  # or it narrows before it is there
    changes = {**THOROUGH, "iterations": 16, **slow}
    plans = jax.jit(jax.vmap(lambda key: search(name, key, quadratic(beyond), **changes).actions))
    errors = np.abs(plans(jax.random.split(jax.random.key(0), 9)) - corner).max(axis=(1, 2))
    assert np.median(errors) < 0.1


@pytest.mark.parametrize("name", PLANNERS)
def test_finds_the_higher_of_two_hills(name):
    def score(key, actions):
        left = 1.0 - 20.0 * jnp.square(actions + 0.6)
        right = 1.5 - 20.0 * jnp.square(actions - 0.8)
        return jnp.maximum(left, right)[:, 0, 0]  # between the two, no slope shows the way

    plan = found(name, score, low=-np.ones(1), high=np.ones(1), horizon=1)
    np.testing.assert_allclose(plan.actions, 0.8, atol=0.05)


TRANSITION = np.array([[1.0, 0.2], [0.0, 1.0]])  # position and speed of a mass, Δt = 0.2
PUSH = np.array([[0.02], [0.2]])
STATE_COST, ACTION_COST, FINAL_COST = np.diag([1.0, 0.1]), np.array([[0.1]]), 5.0 * np.eye(2)
DISCOUNT = 0.95


def mass_step(key, action, state):
    """The double integrator; the reward belongs to the state that the action leaves."""
    cost = jnp.einsum("ni,ij,nj->n", state, STATE_COST, state)
    cost += jnp.einsum("ni,ij,nj->n", action, ACTION_COST, action)
    successor = state @ TRANSITION.T + action @ PUSH.T
    return Prediction(-cost, jnp.full_like(cost, DISCOUNT)), successor


def mass_value(state):
    return -jnp.einsum("ni,ij,nj->n", state, FINAL_COST, state)


def mass_cost(start, actions):
    """Discounted cost of a plan `[H, 1]`, in float64."""
    state, total, weight = start, 0.0, 1.0
    for action in np.float64(actions):
        total += weight * (state @ STATE_COST @ state + action @ ACTION_COST @ action)
        state = TRANSITION @ state + PUSH @ action
        weight *= DISCOUNT
    return total + weight * state @ FINAL_COST @ state


def riccati_cost(start, horizon):
    """The least cost, by dynamic programming in float64."""
    cost_to_go = FINAL_COST
    for _ in range(horizon):
        pull = DISCOUNT * PUSH.T @ cost_to_go @ TRANSITION
        gain = np.linalg.solve(ACTION_COST + DISCOUNT * PUSH.T @ cost_to_go @ PUSH, pull)
        cost_to_go = STATE_COST + DISCOUNT * TRANSITION.T @ cost_to_go @ TRANSITION - pull.T @ gain
    return start @ cost_to_go @ start


@functools.cache
def mass_costs(name, num_starts=4, **changes):
    """Costs relative to the optimum of plans from several states, vmapped: `[B]`."""
    starts = np.random.default_rng(0).uniform(-0.9, 0.9, (num_starts, 2))

    @jax.jit
    @jax.vmap
    def plan(key, start):
        score = scorer(mass_step, start, value=mass_value)
        bounds = {"low": -4.0 * np.ones(1), "high": 4.0 * np.ones(1), "horizon": 10}
        return search(name, key, score, **bounds, **changes).actions

    plans = plan(jax.random.split(jax.random.key(1), num_starts), jnp.float32(starts))
    return np.array(
        [mass_cost(x, a) / riccati_cost(x, 10) for x, a in zip(starts, plans, strict=True)]
    )


@pytest.mark.parametrize("name", REFINING)
def test_nearly_solves_the_double_integrator(name):
    costs = mass_costs(name, **THOROUGH)
    assert np.all(costs > 1 - 1e-6)  # nothing beats dynamic programming
    assert np.all(costs < (1.06 if name == "icem" else 1.01))  # coloured noise is coarser


@pytest.mark.parametrize("name", REFINING)
def test_beats_random_shooting_with_the_same_number_of_candidates(name):
    random, planned = mass_costs("random") - 1, mass_costs(name) - 1
    assert planned.mean() < 0.3 * random.mean()


# What every search keeps


@pytest.mark.parametrize("name", PLANNERS)
def test_never_leaves_the_bounds(name):
    outside = np.float32(np.tile([[5.0, -5.0]], (HORIZON, 1)))
    mean = jnp.asarray(outside)  # a warm start may lie outside
    recorder, plan = record(name, quadratic(outside), mean=mean, iterations=2)
    for actions in (*recorder.populations, plan.actions, plan.mean, plan.elites):
        assert np.all(actions >= LOW) and np.all(actions <= HIGH)


@pytest.mark.parametrize("name", PLANNERS)
def test_never_chooses_a_return_that_is_not_finite(name):
    def score(key, actions):  # better and better towards the region in which the model breaks down
        furthest = actions[:, :, 0].max(axis=1)
        broken = jnp.where(furthest > 0.6, jnp.nan, jnp.where(furthest > 0.4, jnp.inf, -jnp.inf))
        return jnp.where(furthest > 0.2, broken, actions[:, :, 0].sum(axis=1) - 1e3)

    plan = found(name, score)
    for actions in (plan.actions, plan.mean, plan.elites):
        assert np.all(np.isfinite(actions))
        assert np.all(actions[..., 0] <= 0.2 + 1e-6)


@pytest.mark.parametrize("name", REFINING)
def test_fits_the_finite_returns_only_when_they_are_fewer_than_the_elites(name):
    def score(key, actions):  # two finite ones in each population
        return jnp.where(jnp.arange(len(actions)) < 2, 1.0, jnp.nan)

    momentum = {} if name == "mppi" else {"alpha": 0.0}
    recorder, plan = record(name, score, iterations=1, **momentum)
    np.testing.assert_allclose(plan.mean, recorder.populations[0][:2].mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("name", REFINING)
def test_stays_at_its_mean_if_no_return_is_finite(name):
    mean = jnp.asarray(centre())
    plan = found(name, lambda key, actions: jnp.full(len(actions), jnp.nan), mean=mean)
    np.testing.assert_allclose(plan.actions, mean, rtol=1e-6)
    np.testing.assert_allclose(plan.mean, mean, rtol=1e-6)


@pytest.mark.parametrize("name", PLANNERS)
def test_a_plan_holds_the_last_population(name):
    recorder, plan = record(name, quadratic(centre()), iterations=3)
    last, returns = recorder.populations[-1], recorder.returns[-1]
    np.testing.assert_array_equal(plan.returns, returns)
    best = last[np.argsort(-returns)[: len(plan.elites)]]
    np.testing.assert_array_equal(plan.elites, best)
    if name in ("random", "icem"):  # these follow a sequence that was scored
        np.testing.assert_array_equal(plan.actions, best[0])
    else:
        np.testing.assert_array_equal(plan.actions, plan.mean)


@pytest.mark.parametrize("name", PLANNERS)
def test_jit_changes_nothing(name):
    score = quadratic(centre())
    run = functools.partial(search, name, score=score, iterations=3)
    with jax.disable_jit():
        expected = run(jax.random.key(3))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        jax.jit(run)(jax.random.key(3)),
        expected,
    )


@pytest.mark.parametrize("name", PLANNERS)
def test_a_vmapped_lane_is_the_single_search(name):
    starts = jnp.float32(np.random.default_rng(1).normal(size=(3, 2)))
    keys = jax.random.split(jax.random.key(4), 3)

    def plan(key, start):
        score = scorer(mass_step, start, value=mass_value)
        bounds = {"low": -np.ones(1), "high": np.ones(1), "horizon": 4}
        return search(name, key, score, **bounds, iterations=3)

    lanes = jax.jit(jax.vmap(plan))(keys, starts)
    single = jax.jit(plan)
    for i in range(3):
        jax.tree.map(
            lambda lane, alone, i=i: np.testing.assert_allclose(lane[i], alone, atol=1e-4),
            lanes,
            single(keys[i], starts[i]),
        )
    assert not np.allclose(lanes.actions[0], lanes.actions[1], atol=0.01)


@pytest.mark.parametrize(
    ("name", "number", "values"),
    [
        ("cem", "alpha", [0.0, 0.5]),
        ("icem", "alpha", [0.0, 0.5]),
        ("icem", "beta", [0.0, 2.0]),
        ("mppi", "temperature", [0.1, 10.0]),
        ("mppi", "min_std", [0.01, 0.3]),
    ],
)
def test_numbers_can_be_vmapped_over(name, number, values):
    @jax.jit
    def plan(value):  # three steps are too few for a colour
        changes = {number: value, "iterations": 2, "horizon": 8}
        return search(name, jax.random.key(0), quadratic(0.3), **changes).mean

    lanes = jax.jit(jax.vmap(plan))(jnp.float32(values))
    for lane, value in zip(lanes, values, strict=True):
        np.testing.assert_allclose(lane, plan(value), atol=1e-4)
    assert not np.allclose(lanes[0], lanes[1], atol=1e-3)


@pytest.mark.parametrize("name", PLANNERS)
def test_a_score_of_the_wrong_shape_is_refused(name):
    with pytest.raises(AssertionError):
        search(name, jax.random.key(0), lambda key, actions: actions.sum(axis=2))


# One refit of each, by hand in float64


def test_cem_returns_the_mean_of_its_elites_with_momentum():
    alpha = 0.3
    recorder, plan = record("cem", quadratic(centre()), iterations=1, alpha=alpha)
    best = recorder.populations[0][np.argsort(-recorder.returns[0])[:8]]
    expected = alpha * (LOW + HIGH) / 2 + (1 - alpha) * best.mean(axis=0)
    np.testing.assert_allclose(plan.mean, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", REFINING)
def test_the_second_population_has_the_refitted_mean_and_deviation(name):
    changes = {
        "cem": {"alpha": 0.4},
        "icem": {"alpha": 0.4, "decay": 1.0, "kept": jnp.zeros((0, HORIZON, 2))},
        "mppi": {},
    }[name]
    sizes = {"population": 4000, "elites": 50, "iterations": 2}
    wide = {"low": -10 * np.ones(2), "high": 10 * np.ones(2)}  # σ is 5, and little is clipped
    recorder, _ = record(name, quadratic(centre()), **sizes, **wide, **changes)
    first, second = (np.float64(actions[:4000]) for actions in recorder.populations)

    returns = np.float64(recorder.returns[0])
    order = np.argsort(-returns)[:50]
    weights = np.exp(returns[order] - returns.max()) if name == "mppi" else np.ones(50)
    weights = (weights / weights.sum())[:, None, None]
    mean = (weights * first[order]).sum(axis=0)
    variance = (weights * (first[order] - mean) ** 2).sum(axis=0)
    if name == "cem":  # a standard normal within ±2 has a deviation of 0.88
        mean, std = 0.6 * mean, 0.8796 * np.sqrt(0.4 * 5.0**2 + 0.6 * variance)
    elif name == "icem":
        mean, std = 0.6 * mean, 0.4 * 5.0 + 0.6 * np.sqrt(variance)
    else:
        std = np.clip(np.sqrt(variance), 0.01, 2.0)
    np.testing.assert_allclose(second.std(axis=0), std, rtol=0.05)
    np.testing.assert_allclose(second.mean(axis=0), mean, atol=0.08 * std.max())


def test_mppi_keeps_a_deviation_whose_bounds_agree():
    recorder, _ = record("mppi", quadratic(centre()), population=2000, min_std=0.1, max_std=0.1)
    deviations = [actions[..., 0].std(axis=0).max() for actions in recorder.populations[1:]]
    np.testing.assert_allclose(deviations, 0.1, rtol=0.1)


def test_mppi_takes_the_best_when_cold_and_the_average_when_hot():
    hot, plan = record("mppi", quadratic(centre()), iterations=1, temperature=1e6)
    best = hot.populations[0][np.argsort(-hot.returns[0])[:8]]
    np.testing.assert_allclose(plan.mean, best.mean(axis=0), rtol=1e-3, atol=1e-4)
    cold, plan = record("mppi", quadratic(centre()), iterations=1, temperature=1e-6)
    np.testing.assert_allclose(plan.mean, cold.populations[0][cold.returns[0].argmax()], rtol=1e-5)


# iCEM


def test_icem_populations_shrink_to_twice_the_elites():
    kept = jnp.asarray(np.random.default_rng(0).uniform(-0.4, 0.4, (KEPT, HORIZON, 2)), jnp.float32)
    changes = {"population": 40, "elites": 10, "iterations": 5, "decay": 1.25, "kept": kept}
    recorder, plan = record("icem", quadratic(centre()), **changes)
    sizes = [len(actions) - KEPT for actions in recorder.populations]
    assert sizes == [40, 32, 25, 20, 20 + 1]
    assert plan.returns.shape == (20 + KEPT + 1,) and plan.elites.shape == (10, HORIZON, 2)
    np.testing.assert_array_equal(recorder.populations[0][40:], kept)
    for i in range(1, 5):  # then each has the best of the one before
        before, returns = recorder.populations[i - 1], recorder.returns[i - 1]
        best = before[np.argsort(-returns)[:KEPT]]
        np.testing.assert_array_equal(recorder.populations[i][sizes[i] - (i == 4) :][:KEPT], best)


def test_icem_scores_its_mean_in_the_last_iteration():
    recorder, _ = record("icem", quadratic(centre()), iterations=2, alpha=0.0)
    first, returns = recorder.populations[0], recorder.returns[0]
    mean = first[np.argsort(-returns)[:8]].mean(axis=0)
    np.testing.assert_allclose(recorder.populations[1][-1], mean, rtol=1e-5, atol=1e-6)
    assert np.abs(recorder.populations[0] - mean).max(axis=(1, 2)).min() > 1e-3


def test_the_best_return_of_icem_never_falls():
    def score(key, actions):  # so rugged that new candidates are seldom better
        return jnp.sin(40.0 * actions).sum(axis=(1, 2))

    rises = []
    for seed in range(5):
        recorder, plan = record("icem", score, seed=seed, population=30)
        best = np.array([returns.max() for returns in recorder.returns])
        assert np.all(np.diff(best) >= -1e-5)
        np.testing.assert_allclose(score(None, plan.actions[None])[0], best[-1], rtol=1e-5)
        rises.append(best[-1] - best[0])
    assert max(rises) > 0


def test_icem_knows_the_last_plan_again():
    """A search that is too small to find the optimum follows it if it is handed over."""
    kept = jnp.broadcast_to(centre(), (KEPT, HORIZON, 2))
    changes = {"population": 16, "iterations": 1}
    warm = found("icem", quadratic(centre()), kept=kept, **changes)
    cold = found("icem", quadratic(centre()), **changes)
    np.testing.assert_array_equal(warm.actions, centre())
    assert np.abs(cold.actions - centre()).max() > 0.1


# Noise


@pytest.mark.parametrize("horizon", [64, 63])
def test_the_power_of_coloured_noise_falls_with_its_exponent(horizon):
    betas = np.array([0.0, 0.5, 1.0, 2.0, 3.5])
    noises = jax.vmap(lambda beta: coloured_noise(jax.random.key(0), beta, (1500, horizon, 2)))
    for beta, noise in zip(betas, np.float64(noises(betas)), strict=True):
        power = (np.abs(np.fft.rfft(noise, axis=1)) ** 2).mean(axis=(0, 2))
        frequency = np.fft.rfftfreq(horizon)
        slope, _ = np.polyfit(np.log(frequency[1:]), np.log(power[1:]), 1)
        assert abs(slope + beta) < 0.04
        np.testing.assert_allclose(power[0], power[1], rtol=0.15)  # what is constant is no stronger


@pytest.mark.parametrize("horizon", [1, 2, 7, 12])
def test_every_element_of_coloured_noise_is_standard_normal(horizon):
    noises = jax.vmap(lambda beta: coloured_noise(jax.random.key(0), beta, (10_000, horizon, 2)))
    for beta, noise in zip([0.0, 2.0], np.asarray(noises(np.array([0.0, 2.0]))), strict=True):
        np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=0.05)
        np.testing.assert_allclose(noise.var(axis=0), 1.0, rtol=0.07)
        coordinates = np.corrcoef(noise[:, 0, 0], noise[:, 0, 1])[0, 1]
        sequences = np.corrcoef(noise[:-1, 0, 0], noise[1:, 0, 0])[0, 1]
        assert max(abs(coordinates), abs(sequences)) < 0.04
        if horizon == 12:  # neighbours in time are alike exactly if the noise is coloured
            assert (np.corrcoef(noise[:, 3, 0], noise[:, 4, 0])[0, 1] > 0.5) == (beta > 0)


# Warm starts


def test_shift_drops_the_first_action():
    actions = jnp.arange(24.0).reshape(2, 4, 3)
    np.testing.assert_array_equal(shift(actions)[:, :-1], actions[:, 1:])
    np.testing.assert_array_equal(shift(actions)[:, -1], actions[:, -1])
    np.testing.assert_array_equal(shift(actions, 0.0)[:, :-1], actions[:, 1:])
    np.testing.assert_array_equal(shift(actions, 0.0)[:, -1], 0.0)
    last = jnp.float32([7.0, 8.0, 9.0])
    np.testing.assert_array_equal(shift(actions, last)[:, -1], np.tile(last, (2, 1)))
    np.testing.assert_array_equal(shift(actions[0]), shift(actions)[0])
    np.testing.assert_array_equal(shift(actions[:, :1]), actions[:, :1])  # nothing else is left


# The score


def noisy_step(key, action, latent):
    """Stochastic, with rewards and discounts that depend on everything."""
    noise = jax.random.normal(key, (len(action),))
    memory = 0.9 * latent["memory"] + action.sum(axis=1) + 0.3 * noise
    reward = jnp.sin(memory) + latent["offset"].sum(axis=1)
    discount = jax.nn.sigmoid(memory + 1.0)
    return Prediction(reward, discount), {"memory": memory, "offset": latent["offset"] * 0.8}


@pytest.mark.parametrize("valued", [False, True])
@pytest.mark.parametrize("particles", [1, 4])
def test_the_score_is_a_plain_loop_over_sequences_and_particles(particles, valued):
    population, horizon = 6, 7
    actions = np.random.default_rng(0).normal(size=(population, horizon, 2))
    latent = {"memory": jnp.float32(0.3), "offset": jnp.float32([0.1, -0.2, 0.4])}
    value = (lambda z: 2.0 * z["memory"] - z["offset"][:, 2]) if valued else None
    key = jax.random.key(5)
    ours = scorer(noisy_step, latent, particles=particles, value=value)(key, jnp.float32(actions))

    noise = [
        np.float64(jax.random.normal(k, (population * particles,)))
        for k in jax.random.split(key, horizon)
    ]
    expected = np.zeros((population, particles))
    for n in range(population):
        for p in range(particles):
            memory, offset, weight = 0.3, np.array([0.1, -0.2, 0.4]), 1.0
            for t in range(horizon):
                memory = 0.9 * memory + actions[n, t].sum() + 0.3 * noise[t][n * particles + p]
                expected[n, p] += weight * (np.sin(memory) + offset.sum())
                weight *= 1 / (1 + np.exp(-(memory + 1.0)))
                offset = offset * 0.8
            if valued:
                expected[n, p] += weight * (2.0 * memory - offset[2])
    assert ours.shape == (population,)
    np.testing.assert_allclose(ours, expected.mean(axis=1), rtol=1e-4, atol=1e-5)


def test_nothing_counts_after_the_end_not_even_a_broken_model():
    def step(key, action, latent):  # ends after the second step; all that follows is NaN
        time = latent + 1
        reward = jnp.where(time <= 2, action[:, 0], jnp.nan)
        return Prediction(reward, jnp.select([time < 2, time == 2], [0.9, 0.0], jnp.nan)), time

    actions = jnp.float32(np.random.default_rng(0).normal(size=(3, 5, 1)))
    value = lambda latent: jnp.full(latent.shape, jnp.nan)  # noqa: E731
    returns = scorer(step, jnp.int32(0), value=value)(jax.random.key(0), actions)
    np.testing.assert_allclose(returns, actions[:, 0, 0] + 0.9 * actions[:, 1, 0], rtol=1e-5)


def test_a_discount_that_is_nan_condemns_the_sequence():
    def step(key, action, latent):
        return Prediction(action[:, 0], jnp.where(action[:, 0] > 0, jnp.nan, 0.9)), latent

    actions = jnp.float32([[[1.0], [0.0]], [[-1.0], [0.0]]])
    returns = scorer(step, jnp.zeros(2))(jax.random.key(0), actions)
    np.testing.assert_array_equal(np.isfinite(returns), [False, True])


def test_a_nan_in_one_particle_condemns_the_sequence():
    def step(key, action, latent):
        row = jnp.arange(len(action))
        return Prediction(jnp.where(row == 5, jnp.nan, 1.0), jnp.ones(len(action))), latent

    returns = scorer(step, jnp.zeros(2), particles=4)(jax.random.key(0), jnp.zeros((3, 2, 1)))
    np.testing.assert_array_equal(np.isfinite(returns), [True, False, True])


# A real environment


def test_cem_swings_the_pendulum_up_in_its_true_dynamics():
    env, horizon = envs.make("Pendulum-v1"), 15
    low, high = -jnp.ones(1), jnp.ones(1)

    @jax.jit
    def episode(key):
        reset_key, key = jax.random.split(key)
        state, _ = env.reset(reset_key)

        def body(carry, key):
            state, mean = carry
            plan_key, step_key = jax.random.split(key)
            std = jnp.full_like(mean, 0.5)
            score = scorer(env.rules(), state)
            sizes = {"population": 48, "elites": 6, "iterations": 3}
            plan = cem(plan_key, score, mean, std, low, high, **sizes, alpha=0.1)
            state, _, successor = env.step(step_key, state, plan.actions[0])
            return (state, shift(plan.mean, 0.0)), (successor.reward, successor.truncated)

        start = (state, jnp.zeros((horizon, 1)))
        return jax.lax.scan(body, start, jax.random.split(key, 200))[1]

    rewards, ends = jax.vmap(episode)(jax.random.split(jax.random.key(0), 4))
    np.testing.assert_array_equal(ends.argmax(axis=1), 199)  # one whole episode
    assert np.all(rewards[:, 0] < 0)
    assert rewards.sum(axis=1).min() > -300


def test_a_plan_is_a_pytree_to_carry():
    plan = found("cem", quadratic(centre()), iterations=1)
    assert isinstance(plan, Plan) and len(jax.tree.leaves(plan)) == 4
