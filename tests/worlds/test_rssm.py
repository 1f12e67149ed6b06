from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import ops
from dreamerzero.replay.sequence import Frame
from dreamerzero.types import Box, Discrete, EnvSpec
from dreamerzero.worlds.rssm import RSSM, Latent, Networks, _reconstruction_loss

SIZES = {
    "deter": 16,
    "hidden": 8,
    "stoch": 4,
    "classes": 4,
    "blocks": 4,
    "units": 8,
    "depth": 2,
    "bins": 15,
    "bin_limit": 5.0,
}
SPECS = {
    "vector": EnvSpec("vector", Box((3,)), Discrete(2)),
    "continuous": EnvSpec("continuous", Box((3,)), Box((2,), low=-1.0, high=1.0)),
    "image": EnvSpec("image", Box((6, 5), low=0.0, high=1.0), Discrete(3)),
    "pixels": EnvSpec("pixels", Box((6, 5, 3), "uint8", 0.0, 255.0), Discrete(3)),
    "integer": EnvSpec("integer", Discrete(7), Discrete(3)),
}


def batch(spec, length=6, size=3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (length, size, *spec.observation.shape)
    if isinstance(spec.observation, Discrete):
        observation = rng.integers(spec.observation.num, size=shape)
    elif spec.observation.dtype == "uint8":
        observation = rng.integers(256, size=shape)
    else:
        observation = rng.uniform(size=shape)
    if isinstance(spec.action, Discrete):
        action = rng.integers(spec.action.num, size=(length, size))
    else:
        action = rng.normal(size=(length, size, *spec.action.shape))
    flags = rng.uniform(size=(length, size)) < 0.2
    return Frame(
        observation=jnp.asarray(observation, spec.observation.dtype),
        action=jnp.asarray(action, spec.action.dtype),
        reward=jnp.asarray(rng.normal(size=(length, size)), jnp.float32),
        is_first=jnp.asarray(flags),
        is_last=jnp.zeros((length, size), bool),
        is_terminal=jnp.zeros((length, size), bool),
    )


def nothing_before(world, size=3):
    return world.initial(size), jnp.zeros((size, *world.spec.action.shape), world.spec.action.dtype)


PLANET = {"latent": "gaussian", "recurrence": "gru", "free_each": False, "bins": 1}
V2 = {"recurrence": "gru", "unimix": 0.0, "bins": 1}


@pytest.mark.parametrize("fields", [{}, V2, PLANET], ids=["v3", "v2", "planet"])
@pytest.mark.parametrize("name", SPECS)
def test_every_kind_of_observation_and_action_has_a_finite_loss_and_gradient(name, fields):
    world = RSSM(spec=SPECS[name], **(SIZES | fields))
    params = world.init(jax.random.key(0))
    key, frames = jax.random.key(1), batch(SPECS[name])
    (loss, (latents, _)), grads = jax.value_and_grad(world.loss, has_aux=True)(
        params, key, frames, *nothing_before(world)
    )
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    size = 4 if world.latent == "gaussian" else 4 * 4
    assert latents.features.shape == (6, 3, 16 + size)
    if world.latent == "categorical":
        np.testing.assert_allclose(latents.stoch.sum(-1), 1.0, rtol=1e-5)
    prediction, dreamt = world.step(params, key, frames.action[0], world.initial(3))
    assert prediction.reward.shape == prediction.discount.shape == (3,)
    assert jax.tree.map(jnp.shape, dreamt) == jax.tree.map(jnp.shape, world.initial(3))


def test_free_nats_are_for_each_state_or_for_their_mean():
    kl = jnp.array([0.5, 5.0])
    each = RSSM(spec=SPECS["vector"], **SIZES, free_nats=3.0)
    np.testing.assert_array_equal(each._beyond_free(kl), [3.0, 5.0])
    assert each.replace(free_each=False)._beyond_free(kl) == 3.0
    assert each.replace(free_each=False)._beyond_free(kl + 2.0) == 4.75


def test_dynamics_teach_the_prior_and_representation_the_posterior():
    """In a single frame: through what was remembered, each reaches all that came before."""
    spec = SPECS["continuous"]
    weights = {"dyn_scale": 0.7, "rep_scale": 0.2, "free_nats": 0.0}
    world = RSSM(spec=spec, **(SIZES | weights))
    params = jax.jit(world.init)(jax.random.key(0))
    frames = batch(spec, length=1)
    frames = frames.replace(is_first=jnp.zeros((1, 3), bool))
    before = jax.tree.map(jnp.ones_like, nothing_before(world))

    def loss(params):
        return world.loss(params, jax.random.key(1), frames, *before)

    def kl_terms(params):
        metrics = loss(params)[1][1]
        return metrics["loss/dynamics"], metrics["loss/representation"]

    total, (latents, metrics) = jax.jit(loss)(params)
    tokens = world.net.apply(params, frames.observation, method=Networks.tokens)
    posterior = world.net.apply(params, latents.deter, tokens, method=Networks.posterior)
    prior = world.net.apply(params, latents.deter, method=Networks.prior)
    posterior, prior = (world.stochastic.distribution(x) for x in (posterior, prior))
    kl = world.stochastic.kl(posterior, prior).mean()
    assert kl > 0.01
    np.testing.assert_allclose(metrics["loss/dynamics"], 0.7 * kl, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss/representation"], 0.2 * kl, rtol=1e-4)
    terms = [value for name, value in metrics.items() if name.startswith("loss/")]
    np.testing.assert_allclose(total, sum(terms), rtol=1e-5)

    def taught(grads):
        parts = grads["params"]
        return {part for part in parts if any(np.any(g) for g in jax.tree.leaves(parts[part]))}

    core = {part for part in params["params"] if part.startswith(("input", "core", "gates"))}
    dynamics, representation = jax.jit(jax.jacrev(kl_terms))(params)
    assert taught(dynamics) == core | {"prior_out"}
    posterior_parts = {"encoder", "posterior_in", "posterior_act", "posterior_out"}
    assert taught(representation) == core | posterior_parts


def test_the_plain_core_is_a_gru_with_layer_norm():
    world = RSSM(spec=SPECS["vector"], **(SIZES | PLANET))
    params = jax.tree.map(lambda p: p + 0.05, world.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    deter, stoch, action = rng.normal(size=(2, 16)), rng.normal(size=(2, 4)), np.eye(2)
    ours = world.net.apply(
        params, Latent(jnp.float32(deter), jnp.float32(stoch)), action, method=Networks.core
    )

    p = jax.tree.map(np.float64, params["params"])
    dense = p["input"]["Dense_0"]["Dense_0"]
    inputs = np.concatenate([stoch, action], -1) @ dense["kernel"] + dense["bias"]
    inputs = np.where(inputs > 0, inputs, np.expm1(inputs))
    dense = p["gates"]["Dense_0"]
    gates = np.concatenate([inputs, deter], -1) @ dense["kernel"] + dense["bias"]
    gates = (gates - gates.mean(-1, keepdims=True)) / np.sqrt(gates.var(-1, keepdims=True) + 1e-6)
    gates = gates * p["gate_norm"]["scale"] + p["gate_norm"]["bias"]
    reset, candidate, update = np.split(gates, 3, -1)
    update = 1 / (1 + np.exp(1 - update))
    candidate = np.tanh(candidate / (1 + np.exp(-reset)))
    expected = update * candidate + (1 - update) * deter
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_the_core_is_the_block_gru_written_as_a_loop_over_blocks():
    world = RSSM(spec=SPECS["vector"], **SIZES)
    params = jax.tree.map(lambda p: p + 0.05, world.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    deter, stoch, action = rng.normal(size=(2, 16)), rng.normal(size=(2, 4, 4)), np.eye(2)
    ours = world.net.apply(
        params, Latent(jnp.float32(deter), jnp.float32(stoch)), action, method=Networks.core
    )

    p = jax.tree.map(np.float64, params["params"])

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def norm_act(x, scale):
        x = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-4) * scale
        return x * sigmoid(x)

    shared = []
    for i, x in enumerate((deter, stoch.reshape(2, -1), action)):
        dense = p[f"inputs_{i}"]["Dense_0"]
        scale = p[f"input_norms_{i}"]["RMSNorm_0"]["scale"]
        shared.append(norm_act(x @ dense["kernel"] + dense["bias"], scale))
    hidden = []
    for g in range(4):
        x = np.concatenate([deter[:, 4 * g : 4 * g + 4], *shared], -1)
        hidden.append(x @ p["core_hidden"]["kernel"][g] + p["core_hidden"]["bias"][g])
    scale = p["core_norm"]["RMSNorm_0"]["scale"].reshape(-1)
    hidden = norm_act(np.concatenate(hidden, -1), scale)
    expected = []
    for g in range(4):
        block = slice(4 * g, 4 * g + 4)
        gates = hidden[:, block] @ p["gates"]["kernel"][g] + p["gates"]["bias"][g]
        reset, candidate, update = np.split(gates, 3, -1)
        update = sigmoid(update - 1)
        candidate = np.tanh(sigmoid(reset) * candidate)
        expected.append(update * candidate + (1 - update) * deter[:, block])
    np.testing.assert_allclose(ours, np.concatenate(expected, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, PLANET], ids=["v3", "planet"])
def test_a_packed_latent_comes_back(fields):
    world = RSSM(spec=SPECS["continuous"], **(SIZES | fields))
    params, key = world.init(jax.random.key(0)), jax.random.key(1)
    _, latent = world.step(params, key, jnp.ones((5, 2)), world.initial(5))
    packed = world.pack(latent)
    back = world.unpack(packed)
    np.testing.assert_allclose(back.deter, latent.deter, rtol=2**-8)
    np.testing.assert_allclose(back.stoch, latent.stoch, rtol=2**-8, atol=1e-6)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(packed))
    assert size <= sum(leaf.nbytes for leaf in jax.tree.leaves(latent)) / 2


@pytest.mark.parametrize("name", SPECS)
def test_a_latent_shows_what_the_loss_compares(name):
    """The loss of a reconstruction is that of itself as the observation: the units agree."""
    spec = SPECS[name].observation
    world = RSSM(spec=SPECS[name], **SIZES)
    params = world.init(jax.random.key(0))
    blank = world.initial(3)
    latent = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), (2, *x.shape)), blank)
    shown = world.reconstruct(params, latent)
    output = world.net.apply(params, latent.features, method=Networks.decode)
    if name == "integer":
        np.testing.assert_allclose(shown.sum(-1), 1.0, rtol=1e-5)
        np.testing.assert_array_equal(shown.argmax(-1), output.argmax(-1))
        return
    assert shown.shape == (2, 3, *spec.shape)
    if len(spec.shape) > 1:
        assert spec.low <= shown.min() < shown.max() <= spec.high
    np.testing.assert_allclose(_reconstruction_loss(output, shown, spec), 0.0, atol=1e-9)


def test_filtering_forgets_everything_at_the_start_of_an_episode():
    world = RSSM(spec=SPECS["continuous"], **SIZES)
    params, key = world.init(jax.random.key(0)), jax.random.key(1)
    observation, action = jnp.ones((2, 3)), jnp.full((2, 2), 0.5)
    blank = world.initial(2)
    used = Latent(jnp.ones_like(blank.deter), jnp.ones_like(blank.stoch) / 4)

    def observe(latent, first):
        return world.observe(params, key, latent, action, observation, jnp.full(2, first)).deter

    np.testing.assert_array_equal(observe(used, True), observe(blank, True))
    assert not np.allclose(observe(used, False), observe(blank, False))


def test_the_loss_filters_as_acting_does():
    """The projection outside the scan, the shift of actions and the resets, step by step."""
    spec = SPECS["continuous"]
    world = RSSM(spec=spec, **SIZES)
    params, frames = world.init(jax.random.key(0)), batch(spec)
    key = jax.random.key(1)
    rng = np.random.default_rng(1)
    latent = Latent(jnp.float32(rng.normal(size=(3, 16))), jnp.float32(rng.normal(size=(3, 4, 4))))
    action = jnp.float32(rng.normal(size=(3, 2)))
    _, (latents, _) = world.loss(params, key, frames, latent, action)
    noise = jax.random.gumbel(key, (6, 3, 4, 4))
    assert not frames.is_first[0].all()
    for t in range(6):
        keep = (1.0 - frames.is_first[t])[:, None]
        deter = world.net.apply(
            params,
            Latent(latent.deter * keep, latent.stoch * keep[..., None]),
            action * keep / jnp.maximum(1.0, jnp.abs(action * keep)),
            method=Networks.core,
        )
        tokens = world.net.apply(params, frames.observation[t], method=Networks.tokens)
        logits = world.net.apply(params, deter, tokens, method=Networks.posterior)
        log_probs = ops.unimix(logits.reshape(3, 4, 4), 0.01)
        latent = Latent(deter, ops.straight_through(log_probs, noise[t]))
        np.testing.assert_allclose(latents.deter[t], latent.deter, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(latents.stoch[t], latent.stoch, atol=1e-5)
        action = frames.action[t]


def test_an_overfitted_world_predicts_reward_end_and_observation():
    """One batch, again and again: the losses fall to where only the sampled latent is left."""
    import optax

    spec = SPECS["vector"]
    world = RSSM(spec=spec, **(SIZES | {"units": 32, "hidden": 32, "deter": 64}))
    frames = batch(spec)
    frames = frames.replace(is_terminal=frames.reward > 1.0)
    params = world.init(jax.random.key(0))
    optimiser = optax.adam(3e-3)

    @jax.jit
    def update(params, state, key):
        (_, (_, metrics)), grads = jax.value_and_grad(world.loss, has_aux=True)(
            params, key, frames, *nothing_before(world)
        )
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(params, updates), state, metrics

    state = optimiser.init(params)
    params, state, first = update(params, state, jax.random.key(0))
    for i in range(300):
        params, state, last = update(params, state, jax.random.key(i))
    assert last["loss/reconstruction"] < 0.1 * first["loss/reconstruction"]
    # The floor of both is the entropy of their targets: two-hot between bins, and 1 − 1/333.
    target = ops.two_hot(frames.reward, ops.symexp_bins(15, 5.0))
    floor = -jnp.sum(target * jnp.log(jnp.maximum(target, 1e-9)), -1).mean()
    assert last["loss/reward"] < floor + 0.15
    assert last["loss/continue"] < 0.1


PICTURES = EnvSpec("pictures", Box((64, 64, 3), "uint8", 0.0, 255.0), Discrete(3))


@pytest.mark.parametrize(
    "fields",
    [{"conv": "pool"}, PLANET | {"conv": "strided"}],
    ids=["v3-pool", "planet-strided"],
)
def test_an_overfitted_world_reconstructs_pictures(fields):
    """Every parameter has a gradient, and a few updates on one batch bring the pictures nearer."""
    import optax

    # Wide enough for the latents to tell pictures apart; and without free nats, for under them
    # nothing reaches the prior.
    sizes = SIZES | {"units": 32, "hidden": 32, "deter": 64, "free_nats": 0.0}
    world = RSSM(spec=PICTURES, **(sizes | fields))
    frames = batch(PICTURES, length=2, size=2)
    # Each picture is of one colour, and all colours differ.
    colours = frames.observation[:, :, :1, :1]
    frames = frames.replace(observation=jnp.broadcast_to(colours, frames.observation.shape))
    quickly = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    params = quickly(world.init)(jax.random.key(0))
    optimiser = optax.adam(1e-2)

    @quickly
    def update(params, state, key):
        (_, (_, metrics)), grads = jax.value_and_grad(world.loss, has_aux=True)(
            params, key, frames, *nothing_before(world, 2)
        )
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(params, updates), state, metrics, grads

    state = optimiser.init(params)
    params, state, first, _ = update(params, state, jax.random.key(0))
    for i in range(120):
        params, state, last, grads = update(params, state, jax.random.key(i))
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.any(grad != 0.0), jax.tree_util.keystr(path)
    assert last["loss/reconstruction"] < 0.2 * first["loss/reconstruction"]


@pytest.mark.parametrize("conv", ["pool", "strided"])
@pytest.mark.parametrize("fields", [{}, V2, PLANET], ids=["v3", "v2", "planet"])
def test_every_world_has_networks_for_pictures(fields, conv):
    world = RSSM(spec=PICTURES, **(SIZES | fields), conv=conv)
    params = jax.eval_shape(world.init, jax.random.key(0))
    frames = batch(PICTURES, length=2, size=1)
    (loss, _), grads = jax.eval_shape(
        jax.value_and_grad(world.loss, has_aux=True),
        params,
        jax.random.key(0),
        frames,
        *nothing_before(world, 1),
    )
    assert loss.shape == ()
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
    assert {"encoder", "decoder"} < params["params"].keys()


def test_small_grids_have_two_convolutions_and_a_dense_decoder_whatever_conv_says():
    spec = EnvSpec("grid", Box((10, 10, 4), low=0.0, high=1.0), Discrete(3))
    for conv in ("pool", "strided"):
        world = RSSM(spec=spec, **SIZES, conv=conv)
        params = jax.eval_shape(world.init, jax.random.key(0))["params"]
        first, second = (params["encoder"][name]["kernel"].shape for name in ("Conv_0", "Conv_1"))
        assert (first, second) == ((3, 3, 4, 2), (3, 3, 2, 4))
        assert params["decoder"]["Dense_3"]["Dense_0"]["kernel"].shape == (8, 10 * 10 * 4)
