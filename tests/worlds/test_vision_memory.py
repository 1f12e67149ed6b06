import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special, stats

from dreamerzero.replay.sequence import Frame
from dreamerzero.types import Box, Discrete, EnvSpec, UsageError
from dreamerzero.worlds.vision_memory import Code, Latent, VisionMemory

PICTURE = Box((64, 64, 3), "uint8", 0.0, 255.0)
SPEC = EnvSpec("film", PICTURE, Box((2,), low=-1.0, high=1.0))
SIZES = {"latents": 4, "depth": 2, "units": 6, "mixtures": 3, "restart": True}

init, observe, step = map(jax.jit, (VisionMemory.init, VisionMemory.observe, VisionMemory.step))
vision_loss, memory_loss = map(jax.jit, (VisionMemory.vision_loss, VisionMemory.memory_loss))


def world(spec=SPEC, **fields):
    return VisionMemory(spec=spec, **(SIZES | fields))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("actions", "fields", "vision", "memory"),
    [
        (3, {"reward": False, "done": False}, 4_348_547, 422_368),
        (1, {"latents": 64, "units": 512, "reward": False, "restart": True}, 4_446_915, 1_678_785),
    ],
    ids=["driving", "doom"],
)
def test_the_paper_has_as_many_parameters(actions, fields, vision, memory):
    model = VisionMemory(spec=EnvSpec("paper", PICTURE, Box((actions,))), **fields)
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert (count(params["vision"]), count(params["memory"])) == (vision, memory)


def frames(length, size, seed=0, spec=SPEC):
    rng = np.random.default_rng(seed)
    first = rng.uniform(size=(length, size)) < 0.3
    return Frame(
        observation=None,
        action=jnp.asarray(rng.uniform(-1, 1, (length, size, 2)), jnp.float32),
        reward=jnp.asarray(rng.normal(size=(length, size)), jnp.float32),
        is_first=jnp.asarray(first),
        is_last=jnp.asarray(np.roll(first, -1, axis=0)),
        is_terminal=jnp.asarray(~first & (rng.uniform(size=(length, size)) < 0.4)),
    )


def codes(length, size, latents=4, seed=0, log_var=-60.0):
    """Codes with hardly any noise, so that the z's drawn from them are known."""
    mean = np.random.default_rng(seed).normal(size=(length, size, latents))
    return Code(jnp.asarray(mean, jnp.float32), jnp.full((length, size, latents), log_var))


def by_hand(params, units, z, action, first, state):
    """One step of flax's LSTM in float64, which forgets first where an episode begins."""
    p = jax.tree.map(np.float64, params["memory"]["params"])
    cell, hidden = (part * (1.0 - first)[:, None] for part in state)
    x = np.concatenate([z, action, first[:, None]], axis=-1)
    gate = {
        name: x @ p["lstm"][f"i{name}"]["kernel"]
        + hidden @ p["lstm"][f"h{name}"]["kernel"]
        + p["lstm"][f"h{name}"]["bias"]
        for name in "ifgo"
    }
    cell = special.expit(gate["f"]) * cell + special.expit(gate["i"]) * np.tanh(gate["g"])
    hidden = special.expit(gate["o"]) * np.tanh(cell)
    return (cell, hidden), hidden @ p["out"]["kernel"] + p["out"]["bias"]


def test_the_memory_loss_is_that_of_a_loop():
    model, length, size = world(done_weight=7.0), 7, 3
    params = init(model, jax.random.key(0))
    batch, code = frames(length, size), codes(length, size)
    found, metrics = memory_loss(model, params, jax.random.key(1), batch, code)
    batch = jax.tree.map(np.asarray, batch)
    z, state = np.float64(code.mean), (np.zeros((size, 6)), np.zeros((size, 6)))
    losses = {"latent": [], "reward": [], "done": []}
    for t in range(length - 1):
        first = batch.is_first[t].astype(float)
        state, outputs = by_hand(params, 6, z[t], batch.action[t], first, state)
        for b in np.flatnonzero(~batch.is_first[t + 1]):
            mixture = outputs[b, :36].reshape(4, 3, 3)
            weights = special.softmax(mixture[:, 0], axis=-1)
            density = weights * stats.norm.pdf(
                z[t + 1, b][:, None], mixture[:, 1], np.exp(mixture[:, 2])
            )
            losses["latent"].append(-np.log(density.sum(-1)).mean())
            losses["reward"].append(0.5 * (outputs[b, 36] - batch.reward[t + 1, b]) ** 2)
            end = special.expit(outputs[b, 37])
            over = batch.is_terminal[t + 1, b]
            losses["done"].append(-7.0 * np.log(end) if over else -np.log(1.0 - end))
    assert 0 < np.sum(batch.is_terminal[1:]) < len(losses["done"]) < (length - 1) * size
    for name, values in losses.items():
        np.testing.assert_allclose(metrics[f"loss/{name}"], np.mean(values), rtol=1e-4)
    np.testing.assert_allclose(found, sum(map(np.mean, losses.values())), rtol=1e-4)


def test_acting_and_dreaming_remember_what_learning_does():
    """`observe` along a sequence, and `step` from its end: the LSTM's state and what it says."""
    model = world(temperature=1e-8)
    params = init(model, jax.random.key(0))
    rng = np.random.default_rng(2)
    pictures = rng.integers(256, size=(6, 3, 64, 64, 3)).astype(np.uint8)
    batch = frames(6, 3, seed=3)
    latent, action = model.initial(3), jnp.zeros((3, 2))
    state, before = (np.zeros((3, 6)), np.zeros((3, 6))), None
    for t in range(6):
        key = jax.random.key(t)
        first = batch.is_first[t] | (t == 0)
        latent = observe(model, params, key, latent, action, pictures[t], first)
        action = batch.action[t]
        if before is not None:
            state, _ = by_hand(params, 6, *before, state)
        expected = [part * (1.0 - np.float64(first))[:, None] for part in state]
        np.testing.assert_allclose((latent.cell, latent.hidden), expected, atol=1e-5)
        code = model.encode(params, pictures[t])
        assert (abs(latent.z - code.mean) < 5.0 * jnp.exp(0.5 * code.log_var)).all()
        before = np.float64(latent.z), np.float64(action), np.float64(first)
    prediction, dreamt = step(model, params, jax.random.key(9), action, latent)
    state, outputs = by_hand(params, 6, *before, state)
    np.testing.assert_allclose((dreamt.cell, dreamt.hidden), state, atol=1e-5)
    np.testing.assert_allclose(prediction.reward, outputs[:, 36], atol=1e-5)
    odds = np.exp(outputs[:, 37]) / model.done_weight
    np.testing.assert_allclose(prediction.discount, 1.0 / (1.0 + odds), atol=1e-5)
    mixture = outputs[:, :36].reshape(3, 4, 3, 3)
    likeliest = np.take_along_axis(
        mixture[:, :, 1], mixture[:, :, 0].argmax(-1)[..., None], axis=-1
    )[..., 0]
    np.testing.assert_allclose(dreamt.z, likeliest, atol=1e-3)
    assert not dreamt.first.any()


def test_the_weight_of_ends_does_not_make_them_likelier():
    """A tenth of all steps are ends, and one logit says so: the best one means a tenth."""
    ends = (np.arange(21) % 10 == 1)[:, None]
    model = world()
    params = jax.tree.map(jnp.zeros_like, init(model, jax.random.key(0)))
    batch = frames(21, 1).replace(is_first=jnp.zeros((21, 1), bool), is_terminal=jnp.asarray(ends))
    out = params["memory"]["params"]["out"]
    for weight in (1.0, 10.0):
        weighted = model.replace(done_weight=weight)
        best = np.log(weight * 0.1 / 0.9)
        losses = []
        for logit in (best - 0.3, best, best + 0.3):
            out["bias"] = jnp.zeros(38).at[37].set(logit)
            _, metrics = memory_loss(weighted, params, jax.random.key(0), batch, codes(21, 1))
            losses.append(metrics["loss/done"])
        assert losses[1] < min(losses[0], losses[2])
        out["bias"] = jnp.zeros(38).at[37].set(best)
        prediction, _ = step(
            weighted, params, jax.random.key(0), jnp.zeros((1, 2)), model.initial(1)
        )
        np.testing.assert_allclose(prediction.discount, 0.9, rtol=1e-5)


def test_the_vision_loss_is_that_of_a_loop():
    model = world(free_nats=0.05)
    params = init(model, jax.random.key(0))
    params["vision"]["params"]["log_var"]["Dense_0"]["bias"] -= 50.0  # no noise: z is its mean
    pictures = np.random.default_rng(0).integers(256, size=(5, 64, 64, 3)).astype(np.uint8)
    found, metrics = vision_loss(model, params, jax.random.key(1), pictures)
    code = jax.tree.map(np.float64, model.encode(params, pictures))
    latent = Latent(jnp.float32(code.mean), None, None, None)
    shown = np.float64(model.reconstruct(params, latent))
    assert shown.shape == pictures.shape and shown.min() > 0.0 and shown.max() < 255.0
    squares = (((shown - pictures) / 255.0) ** 2).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(metrics["loss/reconstruction"], squares.mean(), rtol=1e-4)
    kl = 0.5 * (code.mean**2 + np.exp(code.log_var) - code.log_var - 1.0).sum(axis=-1)
    np.testing.assert_allclose(found, squares.mean() + kl.mean(), rtol=1e-4)
    free = model.replace(free_nats=2.0 * kl.max())
    loss, _ = vision_loss(free, params, jax.random.key(1), pictures)
    np.testing.assert_allclose(loss, squares.mean() + 2.0 * kl.max() * 4, rtol=1e-4)


def test_without_heads_a_step_pays_one_and_nothing_ends():
    model = world(reward=False, done=False)
    params = init(model, jax.random.key(0))
    prediction, _ = step(model, params, jax.random.key(1), jnp.zeros((5, 2)), model.initial(5))
    assert (prediction.reward == 1.0).all() and (prediction.discount == 1.0).all()
    batch, code = frames(5, 2), codes(5, 2)
    assert set(memory_loss(model, params, jax.random.key(1), batch, code)[1]) == {"loss/latent"}


def test_heat_is_a_number_that_does_not_compile_again():
    model = world()
    params = init(model, jax.random.key(0))
    spread, compiled = [], []
    for tau in (0.1, 1.0, 1.3):
        hot = model.replace(temperature=tau)
        _, latent = step(hot, params, jax.random.key(1), jnp.zeros((500, 2)), model.initial(500))
        spread.append(latent.z.std(axis=0).mean())
        compiled.append(step._cache_size())
    assert spread[0] < spread[1] < spread[2]
    assert len(set(compiled)) == 1


def test_learning_finds_a_mixture_that_a_single_normal_cannot():
    """z jumps to +1 or −1 as the coin falls, after an action that says how likely; pays z."""
    model = world(spec=SPEC, latents=1, units=16, mixtures=2, restart=False)
    params = init(model, jax.random.key(0))
    optimiser = optax.adam(1e-2)
    rng = np.random.default_rng(0)

    def batch():
        action = rng.uniform(-1, 1, (20, 16, 2))
        up = rng.uniform(size=(20, 16)) < np.roll(0.5 + 0.5 * action[..., 0], 1, axis=0)
        mean = (2.0 * up - 1.0)[..., None]
        data = frames(20, 16).replace(
            action=jnp.float32(action),
            reward=jnp.float32(mean[..., 0]),
            is_first=jnp.zeros((20, 16), bool),
            is_terminal=jnp.zeros((20, 16), bool),
        )
        return data, Code(jnp.float32(mean), jnp.full(mean.shape, 2.0 * np.log(0.1)))

    @jax.jit
    def learn(params, state, key, data, code):
        grads, _ = jax.grad(
            lambda params: model.memory_loss(params, key, data, code), has_aux=True
        )(params)
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(params, updates), state

    state = optimiser.init(params)
    for i in range(800):
        params, state = learn(params, state, jax.random.key(i), *batch())
    for action, likely in ((0.8, 0.9), (-0.6, 0.2)):
        latent = model.start(jnp.ones((4000, 1)), jnp.zeros(4000, bool))
        prediction, after = step(
            model, params, jax.random.key(5), jnp.full((4000, 2), action), latent
        )
        np.testing.assert_allclose(np.mean(after.z > 0), likely, atol=0.07)
        np.testing.assert_allclose(abs(after.z).std(), 0.1, atol=0.06)
        np.testing.assert_allclose(prediction.reward.mean(), 2 * likely - 1, atol=0.15)
        assert (prediction.discount > 0.95).all()


def test_actions_may_be_discrete_and_pictures_grey():
    spec = EnvSpec("grey", Box((64, 64, 1), "uint8", 0.0, 255.0), Discrete(3))
    model = world(spec)
    params = jax.eval_shape(model.init, jax.random.key(0))
    action, picture = jnp.array([0, 2]), jnp.zeros((2, 64, 64, 1), jnp.uint8)
    latent = jax.eval_shape(
        model.observe, params, jax.random.key(0), model.initial(2), action, picture, action == 0
    )
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), latent, model.initial(2))
    _, latent = jax.eval_shape(model.step, params, jax.random.key(0), action, latent)
    assert jax.eval_shape(model.reconstruct, params, latent).shape == (2, 64, 64, 1)


@pytest.mark.parametrize(
    "space", [Box((10, 10, 4), "bool", 0.0, 1.0), Box((64, 64, 3)), Box((3,)), Discrete(5)]
)
def test_what_it_cannot_see_is_refused(space):
    with pytest.raises(UsageError, match=r"pictures of shape \(64, 64, C\).*blind shows"):
        world(EnvSpec("blind", space, Discrete(2))).check()
