from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero.planning import scorer
from dreamerzero.types import Box, Discrete, EnvSpec, Transition, UsageError
from dreamerzero.worlds.ensemble import Ensemble, Latent

SPEC = EnvSpec("wave", Box((2,)), Box((1,), low=-1.0, high=1.0))
SIZES = {"members": 4, "elites": 3, "units": 32, "weight_decay": (2.5e-5, 5e-5, 1e-4)}
CAPACITY, SIZE = 2500, 2000
ENDS = 0.8  # an episode does where the first number is larger than this

init, step = jax.jit(Ensemble.init), jax.jit(Ensemble.step)
choose, spread, loss = map(jax.jit, (Ensemble._choose, Ensemble.spread, Ensemble.loss))
ask_one, ask_all = jax.jit(Ensemble._ask_one), jax.jit(Ensemble.ask_all)
fit = jax.jit(Ensemble.fit)  # one program for every number that is no size


def world(**fields):
    return Ensemble(spec=SPEC, **(SIZES | fields))


def wave(num, seed=0, fill=0):
    """Transitions of a function with known noise, and its σ of reward and change `[num, 3]`."""
    rng = np.random.default_rng(seed)
    s, a = rng.uniform(-1.0, 1.0, (num, 2)), rng.uniform(-1.0, 1.0, (num, 1))
    std = np.stack([np.full(num, 0.1), 0.1 + 0.2 * abs(s[:, 0]), np.full(num, 0.002)], axis=1)
    mean = np.stack([s[:, 0] * a[:, 0], np.sin(3.0 * s[:, 0]) * a[:, 0], 0.01 * s[:, 1]], axis=1)
    y = mean + std * rng.normal(size=std.shape)
    columns = s, a, y[:, 0], s[:, 0] > ENDS, s + y[:, 1:]
    columns = [np.concatenate([x, np.full((fill, *x.shape[1:]), np.nan)]) for x in columns]
    dtypes = 3 * [jnp.float32] + [bool, jnp.float32]
    return Transition(*map(jnp.asarray, columns, dtypes)), std


def seen(observation):
    """A latent of what is seen: no elite was asked yet."""
    return Latent(observation, jnp.full(len(observation), -1))


def fresh(model, seed=0):
    params = init(model, jax.random.key(seed))
    return params, model.optimiser.init(params.members)


@pytest.fixture(scope="module")
def fitted():
    """The world after a fit; the slots of its data that are not filled hold NaNs."""
    model = world(learning_rate=3e-3)
    data, _ = wave(SIZE, fill=CAPACITY - SIZE)
    return model, *fit(model, *fresh(model), jax.random.key(1), data, SIZE)


def constants(model):
    """Params in which member e predicts e, for everything and with hardly any noise."""
    params, _ = fresh(model)
    top = params.members["network"]["params"]["Dense_2"]["Dense_0"]
    top["kernel"] *= 0.0
    top["bias"] = top["bias"].at[:, :3].set(jnp.arange(float(model.members))[:, None])
    top["bias"] = top["bias"].at[:, 3:6].set(-30.0)
    params.members["low"] -= 20.0
    return params


def test_a_fit_finds_the_function_and_its_noise(fitted):
    """Near the optimum for every elite: likelihood, intervals, σ itself, and where it ends."""
    model, params, _, metrics = fitted
    assert 6 < metrics["epochs"] < model.max_epochs  # it knew itself when to stop
    test, std = wave(4000, seed=9)
    _, y = model._examples(test)
    outputs = ask_all(model, params, test.action, seen(test.observation))
    mean = np.asarray(params.targets.denormalise(outputs.mean), np.float64)
    believed = np.asarray(outputs.std * params.targets.scale, np.float64)
    z = (np.asarray(y) - mean) / believed
    nll = (0.5 * z**2 + np.log(believed)).mean(axis=1)
    optimum = (0.5 + np.log(std)).mean(axis=0)
    assert (nll - optimum < 0.15).all(), nll - optimum
    for width, share in [(0.6745, 0.5), (1.6449, 0.9)]:
        np.testing.assert_allclose((abs(z) < width).mean(axis=1), share, atol=0.08)
    _, noise = spread(model, params, test.action, seen(test.observation))
    assert np.median(abs(np.log(noise / std))) < 0.15
    clear = abs(test.observation[:, 0] - ENDS) > 0.1
    right = (outputs.going_on < 0.5) == test.terminated
    assert right[:, clear].mean() > 0.98


def test_members_agree_where_there_was_data_and_nowhere_else(fitted):
    model, params, *_ = fitted
    near, _ = wave(200, seed=5)
    far = seen(near.observation + 4.0)
    known = spread(model, params, near.action, seen(near.observation)).epistemic
    unknown = spread(model, params, near.action, far).epistemic
    assert (unknown.mean(axis=0) > 3.0 * known.mean(axis=0)).all()


def test_a_fit_goes_on_from_the_last_one(fitted):
    model, params, optimiser, _ = fitted
    data, _ = wave(SIZE, seed=3, fill=CAPACITY - SIZE)
    once = model.replace(max_epochs=1, learning_rate=5e-4)
    compiled = fit._cache_size()
    *_, after = fit(once, params, optimiser, jax.random.key(2), data, SIZE)
    *_, first = fit(once, *fresh(model), jax.random.key(2), data, SIZE)
    assert fit._cache_size() == compiled  # for none of these numbers is part of the program
    assert after["holdout_error"] < 0.8 * first["holdout_error"]


def test_elites_are_the_best_members_the_very_best_first(fitted):
    """Members that miss by more or less, and learn nothing."""
    model, params, optimiser, _ = fitted
    members = jax.tree.map(jnp.copy, params.members)
    top = members["network"]["params"]["Dense_2"]["Dense_0"]
    top["bias"] = top["bias"].at[:, :3].add(jnp.array([[0.5], [3.0], [0.0], [1.0]]))
    data, _ = wave(SIZE, fill=CAPACITY - SIZE)
    still = model.replace(learning_rate=0.0)
    params = params.replace(members=members)
    params, _, _ = fit(still, params, optimiser, jax.random.key(2), data, SIZE)
    np.testing.assert_array_equal(params.elites, [2, 0, 3])


def test_what_nobody_can_foretell_does_not_hide_what_can_be_learnt():
    """The reward is a coin. Were it the mean of the targets' errors that has to fall, the fit would
    end with .22 and .006 in the others."""
    model = world(batch_size=32)
    data, _ = wave(500)
    s, a = data.observation, data.action
    coin = jnp.asarray(np.random.default_rng(1).integers(0, 2, 500), jnp.float32)
    known = jnp.stack([jnp.sin(3.0 * s[:, 0]) * a[:, 0], s[:, 1] * a[:, 0]], axis=1)
    data = data.replace(reward=coin, next_observation=s + 0.01 * known)
    params, _, _ = fit(model, *fresh(model), jax.random.key(1), data, 500)
    _, y = model._examples(data)
    mean = ask_all(model, params, data.action, seen(data.observation)).mean.mean(axis=0)
    error = np.square(np.asarray(params.targets.normalise(y)) - mean).mean(axis=0)
    assert error[0] > 0.5 and (error[1:] < [0.1, 0.003]).all(), error


def test_it_stops_when_nothing_improves_and_keeps_the_best_weights(fitted):
    model, params, optimiser, _ = fitted
    data, _ = wave(SIZE, fill=CAPACITY - SIZE)
    run = partial(fit, key=jax.random.key(2), data=data, size=SIZE)
    still, _, metrics = run(model.replace(learning_rate=0.0), params, optimiser)
    assert metrics["epochs"] == 1 + 6  # better than nothing, then six times no better
    wild, _, metrics = run(model.replace(learning_rate=jnp.nan), params, optimiser)
    assert metrics["epochs"] == 6
    for end in (still, wild):
        jax.tree.map(np.testing.assert_array_equal, end.members, params.members)
    # Steps so large that weights only get worse: the least error is what remains.
    _, _, one = run(model.replace(learning_rate=0.1, max_epochs=1), params, optimiser)
    _, _, all_ = run(model.replace(learning_rate=0.1), params, optimiser)
    assert all_["holdout_error"] <= one["holdout_error"]


def test_lanes_stop_by_themselves_and_are_the_single_fits():
    """With other numbers of rows, and two of them long done while the last goes on."""
    model, (data, _) = world(max_epochs=8, batch_size=64), wave(300)
    starts = [fresh(model, seed) for seed in range(3)]
    rate, patience = jnp.array([0.0, 0.0, 3e-3]), jnp.array([1, 3, 9])
    size, key = jnp.array([100, 300, 200]), jax.random.split(jax.random.key(4), 3)

    def run(rate, patience, start, key, size):
        lane = model.replace(learning_rate=rate, patience=patience)
        return lane.fit(*start, key, data, size)

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *starts)
    lanes = jax.jit(jax.vmap(run))(rate, patience, stacked, key, size)
    assert lanes[2]["epochs"].tolist() == [3, 5, 8]
    single = jax.jit(run)
    for i, start in enumerate(starts):
        one = single(rate[i], patience[i], start, key[i], size[i])
        ours = jax.tree.map(lambda leaf, i=i: leaf[i], lanes)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), ours, one)


@pytest.mark.parametrize("ends", [None, lambda s, a, after: after[:, 0] > 1.0])
def test_the_loss_is_the_equation(ends):
    model = world(termination=ends)
    params, _ = fresh(model)
    moments = params.inputs.of(jnp.array([[0.0, 2.0, 1.0], [2.0, 8.0, 0.0]]), jnp.ones(2, bool))
    params = params.replace(inputs=moments, targets=moments)
    batch = jax.tree.map(lambda leaf: leaf.reshape(4, 5, *leaf.shape[1:]), wave(20)[0])
    total = 0.0
    p = jax.tree.map(np.float64, params.members)
    for e in range(4):
        x = np.concatenate([batch.observation[e], batch.action[e]], axis=-1)
        x = (x - moments.mean) / moments.scale
        for layer in range(3):
            dense = p["network"]["params"][f"Dense_{layer}"]["Dense_0"]
            total += 0.5 * model.weight_decay[layer] * (dense["kernel"][e] ** 2).sum()
            x = x @ dense["kernel"][e] + dense["bias"][e]
            x = x / (1.0 + np.exp(-x)) if layer < 2 else x
        change = batch.next_observation[e] - batch.observation[e]
        y = np.concatenate([batch.reward[e][:, None], change], axis=-1)
        y = (y - moments.mean) / moments.scale
        low, high = p["low"][e], p["high"][e]
        log_var = high - np.log1p(np.exp(high - x[:, 3:6]))
        log_var = low + np.log1p(np.exp(log_var - low))
        total += ((y - x[:, :3]) ** 2 / np.exp(log_var) + log_var).mean()
        total += 0.01 / 4 * (high - low).sum()
        if ends is None:
            over = np.asarray(batch.terminated[e])
            total += np.log1p(np.exp(np.where(over, x[:, 6], -x[:, 6]))).mean()
    np.testing.assert_allclose(loss(model, params, None, batch)[0], total, rtol=1e-5)


@pytest.mark.parametrize("num", [7, 2000])
def test_every_row_is_told_what_its_own_member_says(num):
    """Neither is a whole number of groups, and 2000 are more than are asked at once on a CPU."""
    model = world()
    params, _ = fresh(model)
    params = params.replace(elites=jnp.array([3, 0, 2]))
    x = jax.random.uniform(jax.random.key(1), (num, 3), minval=-1.0)
    action, latent = x[:, 2:], seen(x[:, :2])
    member = choose(model, jax.random.key(2), jnp.full(num, -1))
    ours = ask_one(model, params, member, action, latent)
    everyone = ask_all(model, params, action, latent)
    jax.tree.map(
        lambda one, all_: np.testing.assert_allclose(
            one, all_[member, jnp.arange(num)], rtol=1e-4, atol=1e-5
        ),
        ours,
        everyone,
    )
    best = jax.tree.map(lambda leaf: leaf[3], params.members["network"])
    direct = model.net.apply(best, params.inputs.normalise(x))
    np.testing.assert_allclose(everyone.mean[0], direct[:, :3], rtol=1e-4, atol=1e-5)


def test_a_member_that_two_rows_of_a_group_want_answers_one_of_them():
    model = world()
    member, latent = jnp.array([0, 1, 1, 2, 0, 1]), seen(jnp.ones((6, 2)))
    outputs = ask_one(model, fresh(model)[0], member, jnp.ones((6, 1)), latent)
    assert np.isfinite(outputs.mean).all(axis=1).tolist()[3:] == [True] * 3
    assert np.isnan(outputs.mean[1:3, 0]).sum() == 1


def test_members_are_drawn_in_equal_shares_and_every_row_is_uniform():
    model = world()
    keys = jax.random.split(jax.random.key(0), 6000)
    drawn = np.asarray(jax.vmap(model._choose, (0, None))(keys, jnp.full(8, -1)))
    for row in range(8):
        np.testing.assert_allclose(np.bincount(drawn[:, row]) / 6000, 1 / 3, atol=0.03)
    assert (np.sort(drawn[:, :6].reshape(-1, 2, 3), axis=-1) == [0, 1, 2]).all()
    assert (drawn[:, 6] != drawn[:, 7]).all()
    assert np.mean(drawn[:, 0] == drawn[:, 3]) == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize("particles", ["ts1", "tsinf", "mean"])
def test_whom_a_rollout_asks(particles):
    model = world(particles=particles)
    params, action = constants(model), jnp.zeros((9, 1))
    latent = model.observe(params, None, None, None, jnp.zeros((9, 2)), None)
    assert jax.tree.map(jnp.shape, latent) == jax.tree.map(jnp.shape, model.initial(9))
    keys = jax.random.split(jax.random.key(3), 20)

    def body(latent, key):
        prediction, after = step(model, params, key, action, latent)
        return after, (prediction.reward, after.observation - latent.observation, after.member)

    _, (reward, change, member) = jax.lax.scan(body, latent, keys)
    if particles == "mean":
        np.testing.assert_allclose(reward, 1.0, atol=1e-5)
        assert (member == -1).all()
        return
    np.testing.assert_allclose(reward, member, atol=1e-3)
    np.testing.assert_allclose(change, np.stack([member, member], axis=-1), atol=1e-3)
    assert (member == member[0]).all() == (particles == "tsinf")
    assert (np.sort(member.reshape(20, 3, 3), axis=-1) == [0, 1, 2]).all()


def test_a_planner_hears_every_elite_about_every_sequence():
    """With particles of one member each: 0, 1 and 2 on average, in every sequence the same."""
    model = world(particles="tsinf", termination=lambda s, a, after: jnp.zeros(len(s), bool))
    params = constants(model)
    root = jax.tree.map(lambda leaf: leaf[0], model.initial(1))
    score = scorer(partial(model.step, params), root, particles=6)
    returns = jax.jit(score)(jax.random.key(0), jnp.zeros((5, 3, 1)))
    np.testing.assert_allclose(returns, 1.0 + 0.99 + 0.99**2, rtol=1e-3)


@pytest.mark.parametrize("kind", ["epistemic", "aleatoric"])
def test_pessimism_takes_the_spread_from_the_reward(kind, fitted):
    model, params, *_ = fitted
    batch, _ = wave(10, seed=4)
    latent, key = seen(batch.observation), jax.random.key(5)
    plain, _ = step(model, params, key, batch.action, latent)
    grim = model.replace(pessimism=kind, penalty=2.0)
    less, _ = step(grim, params, key, batch.action, latent)
    outputs = ask_all(model, params, batch.action, latent)
    if kind == "epistemic":
        u = np.std(np.asarray(outputs.mean), axis=0)
    else:
        u = np.mean(np.asarray(outputs.std), axis=0)
    expected = 2.0 * np.sqrt((u**2).mean(axis=-1))
    np.testing.assert_allclose(plain.reward - less.reward, expected, rtol=1e-3, atol=1e-5)


def test_steps_are_noisy_as_the_world_is_and_end_where_it_does(fitted):
    model, params, *_ = fitted
    num = 3000
    latent = seen(jnp.tile(jnp.array([0.5, 0.0]), (num, 1)))
    prediction, after = step(model, params, jax.random.key(0), jnp.zeros((num, 1)), latent)
    np.testing.assert_allclose(prediction.reward.std(), 0.1, rtol=0.2)
    change = np.asarray(after.observation - latent.observation)
    np.testing.assert_allclose(change.std(axis=0), [0.2, 0.002], rtol=0.2)
    assert (prediction.discount > 0.9).all() and (prediction.discount < model.discount).all()

    told = model.replace(termination=lambda s, a, after: after[:, 0] > s[:, 0])
    told_params = constants(told)
    start, action = told.initial(9), jnp.zeros((9, 1))
    prediction, after = step(told, told_params, jax.random.key(0), action, start)
    np.testing.assert_allclose(prediction.discount, 0.99 * (after.observation[:, 0] <= 0.0))


def test_actions_may_be_discrete():
    model = Ensemble(spec=EnvSpec("discrete", Box((2,)), Discrete(3)), **SIZES)
    params, _ = fresh(model)
    action = jnp.array([0, 1, 2, 2])
    prediction, after = jax.eval_shape(
        model.step, params, jax.random.key(0), action, model.initial(4)
    )
    assert prediction.reward.shape == prediction.discount.shape == (4,)
    assert after.observation.shape == (4, 2)


@pytest.mark.parametrize(
    ("spec", "fields", "message"),
    [
        (EnvSpec("maze", Discrete(4), Discrete(2)), {}, "float32 vectors; maze shows Discrete"),
        (EnvSpec("film", Box((8, 8)), Discrete(2)), {}, "float32 vectors; film shows Box"),
        (SPEC, {"elites": 5}, "1 to 4 members can be asked; got 5"),
    ],
)
def test_what_no_ensemble_can_do_is_refused(spec, fields, message):
    with pytest.raises(UsageError, match=message):
        Ensemble(spec=spec, **(SIZES | fields)).init(jax.random.key(0))
