"""The training program: one pure function, whose lanes are single runs."""

import jax
import jax.numpy as jnp
import numpy as np

from dreamerzero import training
from dreamerzero.training import program
from dreamerzero.types import Phase


def test_metrics_tell_the_episodes_that_ended(agent, env):
    _, metrics = training.train(agent, env, jax.random.key(0), steps=1000)
    # Episodes of the probe last 4 steps; 4 environments are 250 steps each, in 12 + 38 iterations.
    assert {name: value["episodes"].shape for name, value in metrics.items() if name != "fit"} == {
        "prefill": (12,),
        "train": (38,),
    }
    episodes = sum(metrics[phase]["episodes"].sum() for phase in ("prefill", "train"))
    lengths = sum(metrics[phase]["episode_length"].sum() for phase in ("prefill", "train"))
    returns = metrics["train"]["episode_return"]
    assert episodes == 4 * (250 // 4)
    assert lengths == 4 * episodes
    assert 0 < returns.sum() < metrics["train"]["episodes"].sum()
    assert "loss" not in metrics["prefill"]
    assert metrics["fit"]["loss"].shape == (3,)


def test_a_lane_is_the_single_run(agent, env, same):
    keys = jnp.stack([jax.random.key(seed) for seed in range(3)])
    lanes, _ = jax.vmap(lambda key: training.train(agent, env, key, steps=200))(keys)
    single, _ = training.train(agent, env, keys[1], steps=200)
    assert same(jax.tree.map(lambda leaf: leaf[1], lanes), single)
    assert not same(jax.tree.map(lambda leaf: leaf[0], lanes), single)


def test_hyperparameters_are_lanes_too(agent, env):
    rates = jnp.array([1e-3, 1e-1])
    run = lambda rate: training.train(  # noqa: E731
        agent.replace(learning_rate=rate), env, jax.random.key(0), steps=200
    )
    lanes, _ = jax.vmap(run)(rates)
    single, _ = run(rates[1])
    np.testing.assert_allclose(lanes.agent.params[1], single.agent.params, rtol=1e-5)
    assert not np.allclose(lanes.agent.params[0], single.agent.params, rtol=1e-3)


def test_a_float_does_not_recompile(agent, env, monkeypatch):
    traces = []
    real = program.iteration
    monkeypatch.setattr(program, "iteration", lambda *args: (traces.append(args), real(*args))[1])
    train = jax.jit(lambda *args: program.train(*args, steps=100))
    first, _ = train(agent, env, jax.random.key(0))
    count = len(traces)
    second, _ = train(agent.replace(learning_rate=0.5, epsilon=0.1), env, jax.random.key(0))
    assert len(traces) == count > 0
    assert not np.array_equal(first.agent.params, second.agent.params)


def test_learning_takes_the_mean_over_repeats(agent, env):
    state = jax.jit(program.start)(agent, env, jax.random.key(0))
    filled, _ = program.iteration(agent, env, Phase("collect", 1, 5, learn=""), state)
    _, together = program.iteration(agent, env, Phase("learn", 1, 0, repeats=3), filled)
    learner, losses = filled.agent, []
    for _ in range(3):
        learner, metrics = agent.learn(learner, None)
        losses.append(metrics["loss"])
    np.testing.assert_allclose(together["loss"], np.mean(losses), rtol=1e-6)


def test_named_keys_differ_by_name_only():
    key = jax.random.key(0)
    data = lambda name: jax.random.key_data(program.named(key, name)).tolist()  # noqa: E731
    assert data("reset") == data("reset") != data("init")
