import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamerzero.types import Box, Discrete, EnvSpec
from dreamerzero.worlds.value_equivalent import Unroll, ValueEquivalent

SIZES = {"latent": 6, "layers": 1, "units": 8, "depth": 2, "support": 5}
SPECS = {
    "vector": EnvSpec("vector", Box((3,)), Discrete(2)),
    "grid": EnvSpec("grid", Box((6, 5, 2), "bool", 0.0, 1.0), Discrete(3)),
    "picture": EnvSpec("picture", Box((32, 40, 3), "uint8", 0.0, 255.0), Discrete(3)),
    "integer": EnvSpec("integer", Discrete(7), Discrete(3)),
}


def world(spec, **fields):
    return ValueEquivalent(spec=spec, **(SIZES | fields))


def observations(spec, batch, seed=0):
    rng = np.random.default_rng(seed)
    shape = (batch, *spec.observation.shape)
    if isinstance(spec.observation, Discrete):
        return jnp.asarray(rng.integers(spec.observation.num, size=shape), jnp.int32)
    if spec.observation.dtype == "float32":
        return jnp.asarray(rng.normal(size=shape), jnp.float32)
    return jnp.asarray(rng.integers(2, size=shape), spec.observation.dtype)


def unroll(spec, steps=3, batch=4, seed=0):
    rng = np.random.default_rng(seed)
    policy = rng.uniform(size=(steps + 1, batch, spec.action.num))
    return Unroll(
        observation=observations(spec, batch, seed),
        action=jnp.asarray(rng.integers(spec.action.num, size=(steps, batch))),
        reward=jnp.asarray(rng.normal(size=(steps, batch)), jnp.float32),
        going_on=jnp.ones((steps, batch), bool),
        stepped=jnp.ones((steps, batch)),
        policy=jnp.asarray(policy / policy.sum(axis=-1, keepdims=True), jnp.float32),
        value=jnp.asarray(rng.normal(size=(steps + 1, batch)), jnp.float32),
        decided=jnp.ones((steps + 1, batch)),
    )


def opinionated(model):
    """Params that are zero nowhere, as those of fresh heads are."""
    return jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape),
        model.init(jax.random.key(0)),
    )


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_shapes_ranges_and_a_beginning_without_opinions(spec):
    model = world(spec)
    params = model.init(jax.random.key(0))
    observation = observations(spec, 4)
    latent = model.observe(params, None, model.initial(4), None, observation, None)
    for _ in range(3):
        assert latent.shape == model.initial(4).shape == (4, 6)
        np.testing.assert_allclose(latent.min(axis=-1), 0.0, atol=1e-6)
        np.testing.assert_allclose(latent.max(axis=-1), 1.0, atol=1e-3)
        logits, value = model.evaluate(params, latent)
        assert logits.shape == (4, spec.action.num)
        np.testing.assert_array_equal(logits, 0.0)
        np.testing.assert_array_equal(value, 0.0)
        prediction, latent = model.step(params, None, jnp.zeros(4, jnp.int32), latent)
        np.testing.assert_array_equal(prediction.reward, 0.0)
        assert ((prediction.discount > 0) & (prediction.discount < model.discount)).all()
    assert not np.allclose(latent[0], latent[1])  # it depends on what was seen


def test_the_loss_is_that_of_stepping_one_by_one():
    """Against a loop over the public functions, with every weight written out."""
    spec, steps = SPECS["vector"], 3
    model, batch = world(spec), unroll(spec)
    params = opinionated(model)
    batch = batch.replace(
        stepped=jnp.array([[1.0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]),
        decided=jnp.array([[1.0, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]),
        going_on=jnp.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]], bool),
    )
    latent = model.represent(params, batch.observation)
    total = np.zeros(4)
    for k in range(steps + 1):
        weight = 1.0 if k == 0 else 1.0 / steps
        if k:
            prediction, latent = model.step(params, None, batch.action[k - 1], latent)
            on = np.asarray(prediction.discount / model.discount, np.float64)
            ended = -np.where(batch.going_on[k - 1], np.log(on), np.log(1 - on))
            reward_logits, _ = model._apply(params, type(model.net).outcome, latent)
            reward = model.scalar.loss(reward_logits, batch.reward[k - 1])
            total += weight * np.asarray(batch.stepped[k - 1]) * (ended + reward)
        logits, _ = model.evaluate(params, latent)
        value_logits = model._apply(params, type(model.net).prediction, latent)[1]
        policy = -(batch.policy[k] * jax.nn.log_softmax(logits)).sum(axis=-1)
        value = model.scalar.loss(value_logits, batch.value[k])
        total += weight * np.asarray(batch.decided[k]) * (policy + model.value_scale * value)
    loss, (error, metrics) = model.loss(params, None, batch)
    np.testing.assert_allclose(loss, total.mean(), rtol=1e-4)
    _, value = model.evaluate(params, model.represent(params, batch.observation))
    expected = batch.decided[0] * jnp.abs(value - batch.value[0])
    np.testing.assert_allclose(error, expected, rtol=1e-5)
    weight = jnp.array([0.5, 1.0, 0.0, 0.2])
    weighted, _ = model.loss(params, None, batch.replace(weight=weight))
    np.testing.assert_allclose(weighted, (weight * total).mean(), rtol=1e-4)
    parts = [value for name, value in metrics.items() if name.startswith("loss/")]
    np.testing.assert_allclose(sum(parts), loss, rtol=1e-5)


def test_half_of_the_gradient_passes_each_step():
    """What the k-th reward teaches the representation is 2⁻ᵏ of the true gradient."""
    spec, steps = SPECS["vector"], 3
    model, batch = world(spec), unroll(spec)
    params = opinionated(model)
    only_last = batch.replace(
        stepped=batch.stepped.at[:-1].set(0.0), decided=jnp.zeros_like(batch.decided)
    )

    def true_loss(params):
        latent = model.represent(params, batch.observation)
        for action in batch.action:
            _, latent = model.step(params, None, action, latent)
        reward, going_on = model._apply(params, type(model.net).outcome, latent)
        ends = -jax.nn.log_sigmoid(going_on)
        return (model.scalar.loss(reward, batch.reward[-1]) + ends).mean() / steps

    ours = jax.grad(lambda p: model.loss(p, None, only_last)[0])(params)
    true = jax.grad(true_loss)(params)
    name = "representation"
    for a, b in zip(
        jax.tree.leaves(ours["params"][name]), jax.tree.leaves(true["params"][name]), strict=True
    ):
        np.testing.assert_allclose(a, b / 2**steps, rtol=1e-3, atol=1e-6)


def test_one_batch_can_be_learnt_by_heart():
    spec = SPECS["vector"]
    model, batch = world(spec, latent=16, units=64, layers=2), unroll(spec)
    batch = batch.replace(
        policy=jax.nn.one_hot(jnp.argmax(batch.policy, axis=-1), 2),
        going_on=batch.going_on.at[-1].set(False),
    )
    params = model.init(jax.random.key(0))
    optimiser = optax.adam(3e-3)

    @jax.jit
    def fit(params):
        def step(carry, _):
            params, state = carry
            loss, grads = jax.value_and_grad(lambda p: model.loss(p, None, batch)[0])(params)
            updates, state = optimiser.update(grads, state)
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(step, (params, optimiser.init(params)), length=1500)[0][0]

    params = fit(params)
    latent = model.represent(params, batch.observation)
    for k, action in enumerate(batch.action):
        logits, value = model.evaluate(params, latent)
        np.testing.assert_allclose(value, batch.value[k], atol=0.05)
        np.testing.assert_allclose(jax.nn.softmax(logits), batch.policy[k], atol=0.05)
        prediction, latent = model.step(params, None, action, latent)
        np.testing.assert_allclose(prediction.reward, batch.reward[k], atol=0.05)
        expected = model.discount * batch.going_on[k]
        np.testing.assert_allclose(prediction.discount, expected, atol=0.05)
