import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from dreamerzero import ops


def draws(seed, length=12):
    rng = np.random.default_rng(seed)
    reward, value = rng.normal(size=(2, length))
    discount = rng.uniform(0.8, 1.0, length) * (rng.uniform(size=length) > 0.2)
    return reward, discount, value, rng.uniform(size=length)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.95, 1.0])
def test_matches_rlax(seed, lambda_):
    reward, discount, value, _ = map(jnp.float32, draws(seed))
    ours = ops.lambda_returns(reward, discount, value, lambda_)
    np.testing.assert_allclose(
        ours, rlax.lambda_returns(reward, discount, value, lambda_), rtol=1e-5
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_lambda_for_each_step_matches_a_float64_loop(seed):
    reward, discount, value, lambda_t = draws(seed)
    g, expected = value[-1], []
    for r, d, v, lam in list(zip(reward, discount, value, lambda_t, strict=True))[::-1]:
        g = r + d * ((1 - lam) * v + lam * g)
        expected.append(g)
    ours = ops.lambda_returns(*map(jnp.float32, (reward, discount, value, lambda_t)))
    np.testing.assert_allclose(ours, expected[::-1], rtol=1e-4, atol=1e-5)


def test_gradient_reaches_every_argument():
    args = tuple(map(jnp.float32, draws(0)))
    grads = jax.grad(lambda *a: ops.lambda_returns(*a).sum(), argnums=(0, 1, 2, 3))(*args)
    assert all(jnp.abs(g).sum() > 0 for g in grads)


@pytest.mark.parametrize("n", [1, 3, 12])
def test_n_step_returns_match_a_float64_loop_over_every_start(n):
    reward, discount, value, lambda_t = draws(n)
    expected = []
    for start in range(len(reward) - n + 1):
        g = value[start + n - 1]
        for t in reversed(range(start, start + n)):
            last = t == start + n - 1
            mixed = value[t] if last else (1 - lambda_t[t]) * value[t] + lambda_t[t] * g
            g = reward[t] + discount[t] * mixed
        expected.append(g)
    ours = ops.n_step_returns(*map(jnp.float32, (reward, discount, value, lambda_t)), n)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_n_step_returns_match_rlax_where_it_has_all_the_steps():
    reward, discount, value, _ = map(jnp.float32, draws(0))
    theirs = rlax.n_step_bootstrapped_returns(reward, discount, value, 4)
    np.testing.assert_allclose(
        ops.n_step_returns(reward, discount, value, 1.0, 4), theirs[:-3], rtol=1e-5
    )


def test_n_step_returns_with_a_shorter_horizon_are_those_of_fewer_steps():
    reward, discount, value, lambda_t = map(jnp.float32, draws(0))
    for horizon in range(1, 5):
        found = jax.jit(ops.n_step_returns, static_argnums=4)(
            reward, discount, value, lambda_t, 4, jnp.int32(horizon)
        )
        fewer = ops.n_step_returns(reward, discount, value, lambda_t, horizon)
        np.testing.assert_allclose(found, fewer[: len(found)], rtol=1e-6)


def test_n_step_returns_of_more_steps_than_there_are_are_refused():
    with pytest.raises(ValueError, match="from 1"):
        ops.n_step_returns(jnp.zeros(3), jnp.ones(3), jnp.zeros(3), 1.0, 4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("lambda_", [0.0, 0.95, 1.0])
def test_advantages_match_rlax(seed, lambda_):
    reward, discount, _, _ = map(jnp.float32, draws(seed))
    values = jnp.float32(np.random.default_rng(seed + 100).normal(size=len(reward) + 1))
    ours = ops.gae(reward, discount, values[:-1], values[1:], lambda_)
    theirs = rlax.truncated_generalized_advantage_estimation(reward, discount, lambda_, values)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_advantages_of_cut_episodes_match_a_float64_loop(seed):
    """Cut after some steps, to go on in another episode: what follows there is none of theirs."""
    reward, discount, v_t, _ = draws(seed)
    v_tm1 = np.random.default_rng(seed + 100).normal(size=len(reward))
    cut = np.random.default_rng(seed + 200).uniform(size=len(reward)) < 0.3
    v_t[:-1] = np.where(cut[:-1], v_t[:-1], v_tm1[1:])
    advantage, expected = 0.0, []
    for t in reversed(range(len(reward))):
        delta = reward[t] + discount[t] * v_t[t] - v_tm1[t]
        advantage = delta + (0.0 if cut[t] else 0.9 * discount[t] * advantage)
        expected.append(advantage)
    lambda_t = 0.9 * ~cut
    ours = ops.gae(*map(jnp.float32, (reward, discount, v_tm1, v_t, lambda_t)))
    np.testing.assert_allclose(ours, expected[::-1], rtol=1e-4, atol=1e-5)
