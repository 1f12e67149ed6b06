import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamerzero.nn.latent_model import Networks
from dreamerzero.planning import gumbel_search
from dreamerzero.types import Box, Discrete, EnvSpec
from dreamerzero.worlds.value_equivalent import Latent, Unroll, ValueEquivalent, prefixes

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


def test_what_follows_a_move_counts_against_the_mover_if_there_are_two_players():
    spec = SPECS["vector"]
    both = world(dataclasses.replace(spec, players=2))
    params = opinionated(both)
    latent, action = both.represent(params, observations(spec, 4)), jnp.zeros(4, jnp.int32)
    alone, _ = world(spec).step(params, None, action, latent)
    prediction, _ = both.step(params, None, action, latent)
    np.testing.assert_array_equal(prediction.discount, -alone.discount)
    np.testing.assert_array_equal(prediction.reward, alone.reward)
    assert (prediction.discount < 0).all()


def test_the_loss_is_that_of_stepping_one_by_one():
    """Against a loop over the public functions, with every weight written out."""
    spec, steps = SPECS["vector"], 3
    model, batch = world(spec, reward_scale=3.0), unroll(spec)
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
            total += weight * np.asarray(batch.stepped[k - 1]) * (ended + 3.0 * reward)
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


def test_in_games_the_policy_that_a_search_sees_is_taught():
    """A legal move that the model doubts is doubted once: not again in what the policy learns."""
    spec = dataclasses.replace(SPECS["vector"], masked=True)
    model, batch = world(spec), unroll(spec, steps=1)
    params = opinionated(model)
    legal = jnp.ones((2, 4, spec.action.num), bool)
    latent = model.represent(params, batch.observation)
    logits, _ = model.evaluate(params, latent)
    _, latent = model.step(params, None, batch.action[0], latent)
    later, _ = model.evaluate(params, latent)
    policy = jax.nn.softmax(jnp.stack([logits, later]))
    batch = batch.replace(policy=policy, legal=legal)
    metrics = model.loss(params, None, batch)[1][1]
    entropy = -jnp.sum(policy * jnp.log(policy), axis=-1).sum(axis=0).mean()
    np.testing.assert_allclose(metrics["loss/policy"], entropy, rtol=1e-5)  # no less is possible


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


def followed(spec, steps=3, batch=4):
    """An `unroll` with what was seen after each action, in some other episodes."""
    seen = [observations(spec, batch, 1 + step) for step in range(steps)]
    return unroll(spec, steps, batch).replace(
        following=jnp.stack(seen), stepped=jnp.array([[1.0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]])
    )


def test_consistency_is_the_angle_to_what_was_seen_and_teaches_the_imagined_side_alone():
    """Against a loop, with the seen side computed from parameters of its own."""
    spec, steps, weight = SPECS["vector"], 3, 1.5
    plain, model, batch = world(spec), world(spec, consistency=weight), followed(spec)
    params = opinionated(model)

    def layer(params, name, latents):
        """Of all latents at once."""
        return model.net.apply(params, latents, method=lambda net, x: getattr(net, name)(x))

    def projected(params, latents):
        x = layer(params, "projector", latents)
        real = x[batch.stepped == 1]  # their mean and spread are the units
        return (x - real.mean(axis=0)) / jnp.sqrt(real.var(axis=0) + 1e-5)

    def expected(params, fixed):
        latents = [model.represent(params, batch.observation)]
        for action in batch.action:
            latent = 0.5 * latents[-1] + 0.5 * jax.lax.stop_gradient(latents[-1])
            latents.append(model.step(params, None, action, latent)[1])
        guess = layer(params, "predictor", projected(params, jnp.stack(latents[1:])))
        seen = jnp.stack([model.represent(fixed, observation) for observation in batch.following])
        target, loss = projected(fixed, seen), 0.0
        for k in range(steps):
            for b in range(4):
                x, y = guess[k, b], target[k, b]
                cosine = x @ y / (jnp.linalg.norm(x) * jnp.linalg.norm(y))
                loss -= weight / steps * batch.stepped[k, b] * cosine / 4
        return loss

    def ours(params):
        return model.loss(params, None, batch)[0] - plain.loss(params, None, batch)[0]

    loss, grads = jax.value_and_grad(ours)(params)
    np.testing.assert_allclose(loss, expected(params, params), rtol=1e-4)
    np.testing.assert_allclose(
        model.loss(params, None, batch)[1][1]["loss/consistency"], loss, rtol=1e-4
    )
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, grads, jax.grad(expected)(params, params))


def test_reconstruction_is_how_unlikely_imagined_latents_find_what_was_seen():
    """Against a loop."""
    spec, steps, weight = SPECS["grid"], 3, 1.5
    model, batch = world(spec, reconstruction=weight), followed(spec)
    params = opinionated(model)
    latent, expected = model.represent(params, batch.observation), 0.0
    for k, action in enumerate(batch.action):
        latent = model.step(params, None, action, latent)[1]
        shown = np.asarray(model.net.apply(params, latent, method=Networks.show), np.float64)
        for b in range(4):
            likely = 1 / (1 + np.exp(-shown[b].reshape(spec.observation.shape)))
            seen = np.asarray(batch.following[k, b])
            error = -np.log(np.where(seen, likely, 1 - likely)).sum()
            expected += weight / steps * batch.stepped[k, b] * error / 4
    metrics = model.loss(params, None, batch)[1][1]
    np.testing.assert_allclose(metrics["loss/reconstruction"], expected, rtol=1e-4)


@pytest.mark.parametrize("part", ["consistency", "reconstruction"])
def test_what_was_seen_of_the_next_episode_does_not_matter(part):
    spec = SPECS["grid"]
    model, batch = world(spec, **{part: 2.0}), followed(spec)
    params = opinionated(model)
    off = batch.stepped[..., None, None, None] == 0
    other = batch.replace(following=batch.following ^ off)
    assert model.loss(params, None, batch)[0] == model.loss(params, None, other)[0]


def test_what_is_off_has_no_parameters():
    def parts(**fields):
        return set(jax.eval_shape(world(SPECS["grid"], **fields).init, jax.random.key(0))["params"])

    plain = parts()
    assert parts(consistency=1.0) - plain == {"projector", "predictor"}
    assert parts(reconstruction=1.0) - plain == {"decoder"}
    assert parts(prefix=5) - plain == {"lstm"}


def test_prefixes_are_sums_since_the_last_reset():
    reward = np.random.default_rng(0).normal(size=(12, 3))
    for reset in (1, 5, 20):
        expected = [reward[k // reset * reset : k + 1].sum(axis=0) for k in range(12)]
        np.testing.assert_allclose(prefixes(jnp.asarray(reward), reset), expected, atol=1e-5)


def test_rewards_in_a_search_are_differences_of_prefixes():
    """With one action a tree is a path. What is predicted along it is what the loss unrolls."""
    spec, depth, reset = EnvSpec("path", Box((3,)), Discrete(1)), 12, 5
    model = world(spec, prefix=reset)
    params = opinionated(model)
    root = model.represent(params, observations(spec, 4))
    assert isinstance(root, Latent)
    jax.tree.map(np.testing.assert_array_equal, model.initial(4).memory, root.memory)
    tree = gumbel_search(
        jax.random.key(0),
        partial(model.evaluate, params),
        partial(model.step, params),
        root,
        simulations=depth,
    ).tree
    reward = np.asarray(tree.children_rewards)[:, :depth, 0].T
    nodes = tree.embeddings
    np.testing.assert_array_equal(nodes.steps[0], np.arange(depth + 1) % reset)

    states = jnp.moveaxis(nodes.state, 1, 0)[1:]
    expected = []
    for k, state in enumerate(states):
        if k % reset == 0:
            memory, before = jax.tree.map(jnp.zeros_like, (state, state)), 0.0
        memory, seen = model.net.apply(params, memory, state, method=Networks.remember)
        logits, _ = model.net.apply(params, state, seen, method=Networks.outcome)
        after = model.scalar.mean(logits)
        expected.append(after - before)
        before = after
    np.testing.assert_allclose(reward, expected, atol=1e-4)

    # The loss is that of the sums of these rewards.
    batch = unroll(spec, depth).replace(observation=observations(spec, 4))
    summed = prefixes(jnp.asarray(reward), reset)
    target = prefixes(batch.reward, reset)
    seen = model._remember(params, states)
    logits, _ = model.net.apply(params, states, seen, method=Networks.outcome)
    np.testing.assert_allclose(model.scalar.mean(logits), summed, atol=1e-3)
    loss = model.scalar.loss(logits, target).sum(axis=0).mean() / depth
    metrics = model.loss(params, None, batch)[1][1]
    np.testing.assert_allclose(metrics["loss/reward"], loss, rtol=1e-4)


@pytest.mark.parametrize("name", ["vector", "grid"])
def test_augmenting_changes_images_by_the_key_and_no_vectors(name):
    spec = SPECS[name]
    model, batch = world(spec, consistency=2.0, augment=True), followed(spec)
    params = opinionated(model)
    loss = jax.jit(lambda seed: model.loss(params, jax.random.key(seed), batch)[0])
    plain = world(spec, consistency=2.0).loss(params, None, batch)[0]
    assert loss(0) == loss(0)
    assert (loss(0) != loss(1)) == (name == "grid")
    if name == "vector":
        np.testing.assert_allclose(loss(0), plain, rtol=1e-6)


def test_boards_are_not_augmented():
    """A position that is shifted is another one."""
    spec = dataclasses.replace(SPECS["grid"], masked=True)
    batch = followed(spec)
    assert world(spec, augment=True)._augmented(jax.random.key(0), batch) is batch
