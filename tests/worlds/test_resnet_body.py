"""The value-equivalent world whose latents are grids."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamerzero import agents, envs
from dreamerzero.nn.latent_model import Networks
from dreamerzero.nn.residual import Lines
from dreamerzero.types import Box, EnvSpec, UsageError
from tests.agents.test_muzero import SMALL
from tests.worlds.test_value_equivalent import SPECS, followed, observations, world

GRIDS = {
    "flat": ((3, 4), EnvSpec("flat", Box((3, 4), "float32", 0.0, 1.0), SPECS["grid"].action)),
    "picture": ((2, 3), SPECS["picture"]),
}
resnet = partial(world, body="resnet", depth=4)


def fresh(model, seed=0):
    return jax.jit(model.init)(jax.random.key(seed))


@pytest.mark.parametrize(("sides", "spec"), GRIDS.values(), ids=GRIDS)
def test_latents_are_grids_and_a_beginning_has_no_opinions(sides, spec):
    model = resnet(spec)
    params, action = fresh(model), jnp.zeros(4, jnp.int32)
    root = jax.jit(model.represent)(params, observations(spec, 4))
    step = jax.jit(partial(model.step, params, None))
    prediction, latent = step(action, root)
    for grid in (root, latent):
        assert grid.shape == model.initial(4).shape == (4, *sides, 4)
        np.testing.assert_allclose(np.square(grid).mean(axis=(1, 2, 3)), 1.0, atol=1e-3)
    logits, value = jax.jit(model.evaluate)(params, latent)
    np.testing.assert_array_equal(logits, np.zeros((4, 3)))
    np.testing.assert_array_equal(value, np.zeros(4))
    np.testing.assert_array_equal(prediction.reward, 0.0)
    assert ((prediction.discount > 0) & (prediction.discount < model.discount)).all()
    _, other = step(action + 1, root)
    assert not np.isclose(latent, other).all(axis=(1, 2, 3)).any()  # it depends on what is done


def test_one_batch_can_be_learnt_by_heart_and_every_parameter_has_a_part_in_it():
    """With value prefixes, consistency and reconstruction."""
    spec, parts = SPECS["grid"], {"prefix": 2, "consistency": 0.1, "reconstruction": 0.1}
    model, batch = resnet(spec, units=32, **parts), followed(spec)
    batch = batch.replace(
        policy=jax.nn.one_hot(jnp.argmax(batch.policy, axis=-1), 3),
        stepped=jnp.ones_like(batch.stepped),
    )
    optimiser = optax.adam(5e-3)

    @jax.jit
    def fit(params):
        def step(carry, _):
            params, state = carry
            grads = jax.grad(lambda p: model.loss(p, None, batch)[0])(params)
            updates, state = optimiser.update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimiser.init(params)), length=600)[0][0]

    before = fresh(model)
    params = fit(before)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before, params)
    assert all(jax.tree.leaves(moved)), moved

    latent = jax.jit(model.represent)(params, batch.observation)
    evaluate = jax.jit(partial(model.evaluate, params))
    step = jax.jit(partial(model.step, params))
    for k in range(4):
        logits, value = evaluate(latent)
        np.testing.assert_allclose(value, batch.value[k], atol=0.1)
        np.testing.assert_allclose(jax.nn.softmax(logits), batch.policy[k], atol=0.1)
        if k < 3:
            prediction, latent = step(None, batch.action[k], latent)
            np.testing.assert_allclose(prediction.reward, batch.reward[k], atol=0.1)


def test_each_place_shows_itself_alone():
    spec = SPECS["grid"]
    model = resnet(spec, reconstruction=1.0)
    params, show = fresh(model), partial(model.net.apply, method=Networks.show)
    latent = jax.random.normal(jax.random.key(0), model.initial(2).shape)
    changed = np.not_equal(show(params, latent), show(params, latent.at[:, 2, 3].add(1.0)))
    places = changed.reshape(2, *spec.observation.shape).any(axis=(0, 3))
    np.testing.assert_array_equal(np.argwhere(places), [[2, 3]])


def test_lines_reach_from_a_place_to_all_of_its_row_and_its_column():
    board = jax.random.normal(jax.random.key(0), (2, 4, 5, 3))
    out, params = Lines(6).init_with_output(jax.random.key(1), board)
    assert out.shape == (2, 4, 5, 6)
    changed = np.not_equal(out, Lines(6).apply(params, board.at[:, 2, 3].add(1.0)))
    cross = np.zeros((4, 5), bool)
    cross[2], cross[:, 3] = True, True
    np.testing.assert_array_equal(changed.all(axis=(0, 3)), cross)
    np.testing.assert_array_equal(changed.any(axis=(0, 3)), cross)


def test_a_lane_is_close_to_the_single_one():
    spec = SPECS["grid"]
    model = resnet(spec)
    lanes = [fresh(model, seed) for seed in range(2)]
    represent = partial(model.represent, observation=observations(spec, 3))
    together = jax.jit(jax.vmap(represent))(jax.tree.map(lambda *x: jnp.stack(x), *lanes))
    for lane, one in zip(together, map(jax.jit(represent), lanes)):
        np.testing.assert_allclose(lane, one, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "env", "fields"),
    [
        ("efficientzero", "Catch-bsuite", {"reanalysed": 0.5}),
        ("muzero-sampled", "Catch-bsuite", {"samples": 2}),
        ("muzero", "TicTacToe-pgx", {}),
        ("alphazero", "TicTacToe-pgx", {"unroll": 0}),
        ("muzero-stochastic", "2048-pgx", {}),
        ("muzero-stochastic", "2048-pgx", {"encoder": "lines", "reconstruction": 1.0}),
    ],
)
def test_agents_act_and_learn_with_it(name, env, fields):
    """Traced only: that nothing trips over the shape of a latent."""
    env = envs.make(env)
    agent = agents.make(name, env, **SMALL | {"body": "resnet"} | fields)
    key = jax.random.key(0)
    state = jax.eval_shape(agent.init, key)
    timestep = jax.eval_shape(lambda key: jax.vmap(env.reset)(jax.random.split(key, 4))[1], key)
    act = partial(agent.act, memory=agent.memory(4), explore=True)
    action = jax.eval_shape(act, state.params, key, timestep).action
    assert action.shape == (4, *env.spec.action.shape)
    after, metrics = jax.eval_shape(agent.learn, state, key)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert "loss/value" in metrics


@pytest.mark.parametrize("name", ["CartPole-v1", "DynaMaze-v0"])
def test_what_is_no_grid_is_refused(name):
    with pytest.raises(UsageError, match=r"resnet sees grids.*Leave body at mlp"):
        agents.make("muzero", envs.make(name), **SMALL, body="resnet")
