import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import ops
from dreamerzero.nn.latent_model import ChanceNetworks
from dreamerzero.worlds.chance import Chance
from tests.worlds.test_value_equivalent import SIZES, SPECS, observations, opinionated, unroll

CODES = 5


def world(spec, **fields):
    return Chance(spec=spec, codes=CODES, **(SIZES | fields))


def batch_of(spec):
    batch = unroll(spec)
    following = [observations(spec, len(batch.action[0]), seed) for seed in (1, 2, 3)]
    return batch.replace(following=jnp.stack(following))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_step_is_a_decision_and_one_of_the_outcomes_it_can_have(spec):
    model = world(spec)
    params = opinionated(model)
    latent = model.represent(params, observations(spec, 4))
    action = jnp.zeros(4, jnp.int32)
    afterstate, logits, value = model.decide(params, action, latent)
    assert (afterstate.shape, logits.shape, value.shape) == ((4, 6), (4, CODES), (4,))
    prediction, following = jax.jit(model.step)(params, jax.random.key(3), action, latent)
    drawn = jax.random.categorical(jax.random.key(3), logits)
    expected, state = model.happen(params, drawn, afterstate)
    np.testing.assert_allclose(following, state, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prediction.reward, expected.reward, rtol=1e-4, atol=1e-5)
    outcomes = [model.happen(params, jnp.full(4, code), afterstate) for code in range(CODES)]
    assert not np.allclose(outcomes[0][1], outcomes[1][1], atol=1e-3)
    # A reward is foretold before it is known what happens.
    np.testing.assert_array_equal(outcomes[0][0].reward, outcomes[1][0].reward)


def test_the_loss_of_chance_is_that_of_going_one_by_one():
    """Against a loop over the public functions, with every weight written out."""
    spec, steps = SPECS["vector"], 3
    model, batch = world(spec, value_scale=0.5, reward_scale=3.0), batch_of(spec)
    params = opinionated(model)
    batch = batch.replace(stepped=jnp.array([[1.0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]))
    latent, seen = model.represent(params, batch.observation), batch.observation
    total = {"chance": np.zeros(4), "afterstate": np.zeros(4), "reward": np.zeros(4)}
    for k in range(steps):
        weight = np.asarray(batch.stepped[k]) / steps
        afterstate, logits, _ = model.decide(params, batch.action[k], latent)
        happened = model._apply(params, ChanceNetworks.code, seen, batch.following[k])
        code = happened.argmax(axis=-1)
        nats = -np.log(jax.nn.softmax(logits))[np.arange(4), code]
        _, value = model._apply(params, ChanceNetworks.foretell, afterstate)
        _, latent = model.happen(params, code, afterstate)
        reward, _ = model._apply(params, ChanceNetworks.outcome, latent, afterstate)
        total["chance"] += weight * nats
        total["afterstate"] += weight * 0.5 * np.asarray(model.scalar.loss(value, batch.value[k]))
        total["reward"] += weight * 3.0 * np.asarray(model.scalar.loss(reward, batch.reward[k]))
        seen = batch.following[k]
    _, (_, metrics) = model.loss(params, None, batch)
    for name, loss in total.items():
        np.testing.assert_allclose(metrics[f"loss/{name}"], loss.mean(), rtol=1e-4)


def test_what_happened_gets_its_name_from_what_it_led_to():
    """The encoder's gradient comes from the later states, through the codes, and nowhere else."""
    model, batch = world(SPECS["vector"]), batch_of(SPECS["vector"])
    params = opinionated(model)

    def gradient(name):
        grads = jax.grad(lambda params: model.loss(params, None, batch)[1][1][f"loss/{name}"])
        return sum(abs(leaf).sum() for leaf in jax.tree.leaves(grads(params)["params"]["coder"]))

    assert gradient("reward") > 0
    # The prediction of a code is drawn towards the code, not the code towards the prediction.
    one_step = batch.replace(stepped=batch.stepped.at[1:].set(0.0))
    alone = jax.grad(lambda params: model.loss(params, None, one_step)[1][1]["loss/chance"])
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(alone(params)["params"]["coder"]))
    log_probs = jnp.log(jnp.array([0.2, 0.5, 0.3]))
    code = ops.straight_through(log_probs, jnp.zeros(3))
    np.testing.assert_array_equal(code, [0.0, 1.0, 0.0])
