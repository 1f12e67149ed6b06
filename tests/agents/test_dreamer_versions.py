"""What v1, v2 and v3 do differently: the actor's gradient, the slow critic, optimisers, noise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import agents, envs
from dreamerzero.agents import sequences
from dreamerzero.agents.dreamer import Dreamer
from dreamerzero.training import program
from dreamerzero.types import Phase, UsageError
from tests.agents.test_dreamer import TINY


def tiny(name, env, **fields):
    shared = TINY
    if name != "dreamer":
        shared = {k: v for k, v in TINY.items() if k not in ("blocks", "bins", "bin_limit")}
    return agents.make(name, env, "xs", **(shared | fields))


@partial(jax.jit, static_argnames="env")
def experienced(agent, env):
    """A state that has acted and learnt nothing."""
    state = program.start(agent, env, jax.random.key(0))
    return program.iteration(agent, env, Phase("prefill", 1, 30, learn=""), state)[0].agent


@partial(jax.jit, static_argnames="env")
def prepared(agent, env):
    """A state with some experience and networks that say something, and a batch."""
    state = experienced(agent, env)
    leaves, tree = jax.tree.flatten(state.params)
    noisy = [p + 0.1 * jnp.cos(7.0 * jnp.arange(p.size)).reshape(p.shape) for p in leaves]
    state = state.replace(params=tree.unflatten(noisy))
    _, batch = sequences.sample(agent, state, jax.random.key(1))
    return state, batch


def actor_gradient(agent, state, batch):
    params = {name: state.params[name] for name in ("world", "actor", "critic")}
    grads, _ = loss_gradient(
        agent, params, state.slow_critic, state.return_range, batch, jax.random.key(2)
    )
    return grads["actor"]


loss_gradient = jax.jit(jax.grad(Dreamer.loss, argnums=1, has_aux=True))


@pytest.mark.parametrize(
    ("name", "task"), [("dreamer-v1", "Catch-bsuite"), ("dreamer-v2", "Pendulum-v1")]
)
def test_every_part_of_a_version_learns(name, task):
    env = envs.make(task)
    agent = tiny(name, env)
    run = jax.jit(partial(program.train, agent, env, steps=120))
    state, metrics = run(jax.random.key(0))
    before = jax.jit(agent.init)(program.named(jax.random.key(0), "init")).params
    for part in ("world", "actor", "critic"):
        old, new = (jax.tree.leaves(params[part]) for params in (before, state.agent.params))
        assert all(np.isfinite(leaf).all() for leaf in new)
        assert any((a != b).any() for a, b in zip(old, new, strict=True))
    assert all(np.isfinite(value).all() for value in metrics["train"].values() if value.ndim == 1)


def test_the_gradient_through_the_dream_is_the_derivative_of_its_return():
    """With the noise fixed, a dream of one step is a smooth function of the actor. (In a longer one
    the actor does not see how its action moves what it will see, as in the papers.)"""
    env = envs.make("Pendulum-v1")
    agent = tiny("dreamer-v1", env, imagination=1, entropy=0.0)
    state, batch = prepared(agent, env)
    gradient = actor_gradient(agent, state, batch)

    @jax.jit
    def loss(actor):
        params = {"world": state.params["world"], "critic": state.params["critic"], "actor": actor}
        key = jax.random.key(2)
        _, (*_, metrics) = agent.loss(params, state.slow_critic, state.return_range, batch, key)
        return metrics["loss/actor"]

    actor, size = state.params["actor"], 3e-2
    shift = jax.tree.map(lambda g: size * g / optax_norm(gradient), gradient)
    forward = loss(jax.tree.map(jnp.add, actor, shift))
    back = loss(jax.tree.map(jnp.subtract, actor, shift))
    np.testing.assert_allclose((forward - back) / (2 * size), optax_norm(gradient), rtol=0.05)


def optax_norm(tree):
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1"])
def test_mix_is_a_mix_of_reinforce_and_of_the_gradient_through_the_dream(task):
    env = envs.make(task)
    agent = tiny("dreamer-v2", env, actor_gradient="mix", entropy=0.0)
    state, batch = prepared(agent, env)
    reinforce, dynamics, mix = (
        actor_gradient(agent.replace(mix=share), state, batch) for share in (1.0, 0.0, 0.3)
    )
    assert optax_norm(reinforce) > 0 and optax_norm(dynamics) > 0
    for a, b, c in zip(*map(jax.tree.leaves, (reinforce, dynamics, mix)), strict=True):
        np.testing.assert_allclose(c, 0.3 * a + 0.7 * b, rtol=1e-3, atol=1e-5)


def test_auto_is_reinforce_for_discrete_and_dynamics_for_continuous_actions():
    for task, shares in (("CartPole-v1", (1.0, None)), ("Pendulum-v1", (None, 1.0))):
        agent = tiny("dreamer-v2", envs.make(task))
        assert agent.actor_gradient == "auto"
        assert agent._gradient_shares == shares


def test_the_slow_critic_of_v2_is_a_copy_made_now_and_then():
    env = envs.make("CartPole-v1")
    agent = tiny("dreamer-v2", env, slow_every=3)
    state, _ = prepared(agent, env)
    learn = jax.jit(agent.learn)
    for key in jax.random.split(jax.random.key(3), 6):
        before = state
        state, _ = learn(state, key)
        source = state.params["critic"] if state.updates % 3 == 0 else before.slow_critic
        jax.tree.map(np.testing.assert_array_equal, state.slow_critic, source)


def test_adam_gives_world_actor_and_critic_their_own_rates():
    """The first step of Adam is the learning rate for every element, whatever the gradient."""
    env = envs.make("Pendulum-v1")
    agent = tiny("dreamer-v1", env, learning_rate=1e-2, actor_rate=0.1, critic_rate=0.5)
    state, _ = prepared(agent, env)
    params = {name: state.params[name] for name in ("world", "actor", "critic")}
    grads = jax.tree.map(jnp.ones_like, params)
    step, _ = agent.descent.update(grads, agent.descent.init(params), params)
    for part, rate in (("world", 1e-2), ("actor", 1e-3), ("critic", 5e-3)):
        for leaf in jax.tree.leaves(step[part]):
            np.testing.assert_allclose(leaf, -rate, rtol=1e-2)


def test_v1_adds_noise_to_what_it_does_while_training_only():
    env = envs.make("Pendulum-v1")
    agent = tiny("dreamer-v1", env, noise=0.5)
    params = jax.jit(agent.init)(jax.random.key(0)).params
    _, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 512))

    def act(agent, explore):
        key = jax.random.key(2)
        return agent.act(params, key, timestep, agent.memory(512), explore=explore)

    jax.tree.map(
        np.testing.assert_array_equal, act(agent, False), act(agent.replace(noise=0.0), False)
    )
    explored = act(agent, True)
    assert np.abs(explored.action).max() == 1.0
    np.testing.assert_array_equal(explored.memory.action, explored.action)
    assert not np.allclose(explored.action, act(agent.replace(noise=0.0), True).action)


def test_a_sequence_goes_on_from_the_latent_stored_before_it():
    """Right after acting, with nothing learnt yet, the stored latents are the ones that the frames
    before lead to: filtering the window again from there takes it up where acting was."""
    env = envs.make("CartPole-v1")
    agent = tiny("dreamer", env, stored_latents=True, batch_size=32)
    state = experienced(agent, env)
    replay, _ = sequences.sample(agent, state, jax.random.key(1))
    # The second windows of the online queue: the first ones began where nothing had been.
    _, batch = sequences.sample(agent, state.replace(replay=replay), jax.random.key(1))
    frames, place = state.replay.frames, batch.place
    before = (place.slot[0] - 1) % frames.reward.shape[1]
    stored = frames.context.deter[place.stream, before].astype(jnp.float32)
    np.testing.assert_array_equal(batch.memory.latent.deter, stored)
    np.testing.assert_array_equal(batch.memory.action, frames.action[place.stream, before])

    seen = jax.tree.map(lambda leaf: leaf[0], batch.frames)
    filtered = agent.world.observe(
        state.params["world"],
        jax.random.key(2),
        batch.memory.latent,
        batch.memory.action,
        seen.observation,
        seen.is_first,
    )
    rows = ~np.asarray(seen.is_last)  # nothing is known where nothing is done
    assert rows.sum() > 16
    rounding = 2**-8 * np.abs(stored).max()
    acting = np.float32(seen.context.deter)
    np.testing.assert_allclose(filtered.deter[rows], acting[rows], atol=rounding)
    assert np.median(np.abs(acting - stored)[rows].max(axis=-1)) > 10 * rounding
    empty = jax.eval_shape(tiny("dreamer-v2", env).init, jax.random.key(0))
    assert empty.replay.frames.context is None


def test_learning_renews_the_latents_of_its_windows_and_no_others():
    env = envs.make("CartPole-v1")
    agent = tiny("dreamer", env, stored_latents=True)
    state, _ = prepared(agent, env)
    sample_key, _ = jax.random.split(jax.random.key(3))
    _, batch = sequences.sample(agent, state, sample_key)
    learnt, _ = jax.jit(agent.learn)(state, jax.random.key(3))
    old, new = (s.replay.frames.context.deter for s in (state, learnt))
    place = batch.place.stream, batch.place.slot
    assert (np.asarray(old[place]) != np.asarray(new[place])).any(axis=-1).all()
    np.testing.assert_array_equal(old.at[place].set(0), new.at[place].set(0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"actor_gradient": "reinforcement"},
            "reinforce, dynamics, mix, auto; got",
        ),
        ({"latent": "normal"}, "categorical, gaussian; got 'normal'"),
        ({"unimix": 1.5}, "unimix is a share"),
        ({"horizon": 0.0}, "horizon is above 0"),
        ({"learning_rate": -1.0}, "learning_rate is 0 or more"),
        ({"optimiser": "sgd"}, "laprop, adam; got 'sgd'"),
        ({"recurrence": "lstm"}, "block_gru, gru; got 'lstm'"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        tiny("dreamer", envs.make("CartPole-v1"), **fields)
