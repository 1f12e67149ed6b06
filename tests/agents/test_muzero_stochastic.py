import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import agents, envs, training
from dreamerzero.agents import sequences
from dreamerzero.envs import probes
from dreamerzero.nn.latent_model import ChanceNetworks
from dreamerzero.types import UsageError
from tests.agents.test_muzero import SMALL


class CoinProbe(probes.Probe):
    """A coin falls after the first action, and the second must say how: no model without chance
    knows what to do in the middle."""

    length = 2
    num_symbols = 3

    def symbol(self, state):
        return jnp.where(state.time == 0, 0, 1 + state.cue)

    def reward(self, state, action):
        return (state.time == 1) & (action == state.cue)


def test_the_world_knows_both_sides_of_a_coin_and_what_each_asks_for():
    env = envs.make(CoinProbe())
    agent = agents.make("muzero-stochastic", env, **SMALL, train_ratio=64.0, codes=4)
    state, _ = training.train(agent, env, jax.random.key(0), steps=3000)
    world, params = agent.world, state.agent.params
    start, *sides = sequences.see(env.spec, params, jnp.eye(3))[:, None]
    params = params["world"]
    latent = world.represent(params, start)
    afterstate, logits, _ = world.decide(params, jnp.zeros(1, int), latent)
    chances = jax.nn.softmax(logits[0])
    for side, shown in enumerate(sides):
        code = world._apply(params, ChanceNetworks.code, start, shown).argmax(axis=-1)
        assert 0.25 < chances[code[0]] < 0.75
        _, after = world.happen(params, code, afterstate)
        policy = jax.nn.softmax(world.evaluate(params, after)[0][0])
        assert policy[side] > 0.7
        rewards = [
            world.step(params, jax.random.key(0), jnp.array([action]), after)[0].reward[0]
            for action in (side, 1 - side)
        ]
        assert rewards[0] > 0.5 > 0.3 > rewards[1]


@pytest.mark.parametrize(("search", "encoder"), [("puct", "lines"), ("gumbel", "conv")])
def test_what_is_illegal_is_not_played(search, encoder):
    env = envs.make("2048-pgx")
    agent = agents.make("muzero-stochastic", env, **SMALL, search=search, encoder=encoder)
    params = jax.jit(agent.init)(jax.random.key(0)).params
    _, timestep = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(1), 64))
    assert not np.asarray(timestep.legal).all()
    acted = jax.jit(agent.act, static_argnames="explore")(
        params, jax.random.key(2), timestep, agent.memory(64), explore=True
    )
    assert np.take_along_axis(np.asarray(timestep.legal), acted.action[:, None], axis=1).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"samples": 4}, "samples"), ({"prefix": 5}, "prefix"), ({"codes": 1}, "at least 2")],
)
def test_what_does_not_go_with_chance_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        agents.make("muzero-stochastic", envs.make("CartPole-v1"), **fields)
