"""The loss of actor and critic against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import envs
from dreamerzero.agents.dreamer import Dreamer
from dreamerzero.nn import distributions
from dreamerzero.nn.normalisers import ReturnRange
from dreamerzero.planning import imagine
from dreamerzero.types import Discrete
from tests.agents.test_dreamer_versions import prepared, tiny

# Nothing weighs so little that its absence would be taken for rounding.
FIELDS = {"entropy": 0.1, "slow_scale": 0.5, "replay_value": 0.3}

loss = jax.jit(Dreamer.loss)


@jax.jit
def said(agent, params, slow, batch, key):
    """What the networks say in the replay and in its dream: all that the loss is made of."""
    world, (world_key, dream_key) = agent.world, jax.random.split(key)
    before = batch.memory.latent, batch.memory.action
    world_loss, (latents, _) = world.loss(params["world"], world_key, batch.frames, *before)

    def act(key, latent):
        policy = agent.policy(params, latent.features)
        if agent.actor_gradient == "reinforce":
            return policy.sample(seed=key)
        return distributions.differentiable_sample(policy, key)

    dream, action, prediction = imagine(
        dream_key,
        act,
        lambda key, action, latent: world.step(params["world"], key, action, latent),
        jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), latents),
        agent.imagination,
    )
    return world_loss, {
        "reward": prediction.reward,
        "discount": prediction.discount,
        "first discount": world.predict(params["world"], latents).discount.ravel(),
        "action": action,
        "actor": agent.actor.apply(params["actor"], dream.features[:-1]),
        "critic": agent.critic.apply(params["critic"], dream.features),
        "slow critic": agent.critic.apply(slow, dream.features),
        "replayed critic": agent.critic.apply(params["critic"], latents.features),
        "replayed slow critic": agent.critic.apply(slow, latents.features),
    }


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def bins(agent):
    x = np.linspace(-agent.bin_limit, agent.bin_limit, agent.bins)
    return np.sign(x) * np.expm1(np.abs(x))


def value(agent, outputs):
    return outputs[..., 0] if agent.bins == 1 else softmax(outputs) @ bins(agent)


def value_loss(agent, outputs, target):
    if agent.bins == 1:
        return 0.5 * (outputs[..., 0] - target) ** 2
    shares = [np.interp(target, bins(agent), one) for one in np.eye(agent.bins)]
    return -np.sum(np.stack(shares, axis=-1) * np.log(softmax(outputs)), axis=-1)


def log_prob_and_entropy(agent, outputs, action):
    if isinstance(agent.spec.action, Discrete):
        p = (1 - agent.unimix) * softmax(outputs) + agent.unimix / outputs.shape[-1]
        one_hot = np.eye(p.shape[-1])[np.int32(action)] if action.ndim == 2 else action
        return np.sum(one_hot * np.log(p), axis=-1), -np.sum(p * np.log(p), axis=-1)
    mean, width = np.split(outputs, 2, axis=-1)
    mean, std = np.tanh(mean), 0.1 + 0.9 / (1 + np.exp(-width - 2))
    log_prob = -0.5 * ((action - mean) / std) ** 2 - np.log(std * np.sqrt(2 * np.pi))
    return log_prob.sum(axis=-1), np.sum(np.log(std * np.sqrt(2 * np.pi * np.e)), axis=-1)


def with_ends(batch):
    """The batch with random rewards, and episodes that begin, end and are cut off."""
    rng, shape = np.random.default_rng(0), batch.frames.reward.shape
    last = rng.uniform(size=shape) < 0.25
    frames = batch.frames.replace(
        reward=jnp.asarray(3 * rng.normal(size=shape), jnp.float32),
        is_first=jnp.asarray(np.roll(last, 1, axis=0)),
        is_last=jnp.asarray(last),
        is_terminal=jnp.asarray(last & (rng.uniform(size=shape) < 0.5)),
    )
    return batch.replace(frames=frames)


@pytest.mark.parametrize(
    ("name", "task", "fields", "reinforce", "dynamics"),
    [
        ("dreamer", "CartPole-v1", {}, 1.0, 0.0),
        ("dreamer", "Pendulum-v1", {}, 1.0, 0.0),
        ("dreamer-v2", "CartPole-v1", {"actor_gradient": "mix", "mix": 0.3}, 0.3, 0.7),
        ("dreamer-v1", "Pendulum-v1", {}, 0.0, 1.0),
    ],
    ids=["v3-discrete", "v3-continuous", "v2-mix", "v1"],
)
@pytest.mark.parametrize(("width", "rate"), [(3.0, 0.1), (0.3, 0.0)], ids=["wide", "narrow"])
def test_the_loss_matches_a_float64_loop(name, task, fields, reinforce, dynamics, width, rate):
    """Advantages are measured by the range of returns, unless that is narrow."""
    env = envs.make(task)
    agent = tiny(name, env, **(FIELDS | fields)).replace(return_rate=rate)
    state, batch = prepared(agent, env)
    batch = with_ends(batch)
    params = {part: state.params[part] for part in ("world", "actor", "critic")}
    slow = jax.tree.map(lambda leaf: 0.7 * leaf, params["critic"])
    old_low, old_high = -width / 3, 2 * width / 3
    old = ReturnRange(jnp.float32(old_low), jnp.float32(old_high))
    inputs = batch, jax.random.key(2)
    found, (_, new, metrics) = loss(agent, params, slow, old, *inputs)
    world_loss, says = said(agent, params, slow, *inputs)
    says = {what: np.float64(x) for what, x in says.items()}

    # In the dream.
    r, d, steps = says["reward"], says["discount"], range(agent.imagination)
    slow_v = value(agent, says["slow critic"])
    v = slow_v if agent.slow_target else value(agent, says["critic"])
    returns, g = np.zeros(r.shape), v[-1]
    for t in reversed(steps):
        g = returns[t] = r[t] + d[t] * (0.05 * v[t + 1] + 0.95 * g)
    weight, going_on = np.zeros(r.shape), says["first discount"]
    for t in steps:
        weight[t] = going_on
        going_on = going_on * d[t]
    low = old_low + rate * (np.percentile(returns, 5) - old_low)
    high = old_high + rate * (np.percentile(returns, 95) - old_high)
    scale = max(1.0, high - low)
    log_prob, entropy = log_prob_and_entropy(agent, says["actor"], says["action"])
    objective = reinforce * (returns - v[:-1]) / scale * log_prob
    objective += dynamics * returns / scale + 0.1 * entropy
    actor_loss = -np.mean(weight * objective)
    outputs = says["critic"][:-1]
    near = value_loss(agent, outputs, slow_v[:-1])
    critic_loss = np.mean(weight * (value_loss(agent, outputs, returns) + 0.5 * near))

    # In the replay.
    last, terminal, reward = (
        np.asarray(getattr(batch.frames, name)) for name in ("is_last", "is_terminal", "reward")
    )
    outputs, dreamt = says["replayed critic"], returns[0].reshape(last.shape)
    near = value_loss(agent, outputs, value(agent, says["replayed slow critic"]))
    losses = np.zeros((len(last) - 1, last.shape[1]))
    for b in range(last.shape[1]):
        g = dreamt[-1, b]
        for t in reversed(range(len(losses))):
            v = dreamt[t + 1, b]
            ahead = v if last[t + 1, b] else 0.05 * v + 0.95 * g
            g = reward[t + 1, b] + (1 - 1 / agent.horizon) * ahead * (not terminal[t + 1, b])
            if not last[t, b]:
                losses[t, b] = value_loss(agent, outputs[t, b], g) + 0.5 * near[t, b]

    expected = {
        "loss/actor": actor_loss,
        "loss/critic": critic_loss,
        "loss/replay_critic": losses.mean(),
        "return_low": low,
        "return_high": high,
    }
    for metric, number in expected.items():
        np.testing.assert_allclose(metrics[metric], number, rtol=1e-4, err_msg=metric)
    np.testing.assert_allclose([new.low, new.high], [low, high], rtol=1e-4)
    expected = world_loss + actor_loss + critic_loss + 0.3 * losses.mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
