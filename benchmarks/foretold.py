"""How far does a MuZero's world foretell rewards, and how far could one? In games, by their rules.

From boards that the run's policy comes to, moves at random, and what each then earns. Against that
stand the mean of 64 dreams of the same moves; the mean of 64 games in which they are played, since
no world can know what chance will do; and one number for all boards. Numbers are mean absolute
errors in points, over the games that last so long.

    python benchmarks/foretold.py RUN [RUN …]
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from common import arguments, report

import dreamerzero as dz
from dreamerzero.nn import distributions
from dreamerzero.planning import imagine

GAMES, MOVES, SEEN_EVERY = 256, 360, 60
AHEAD, TIMES = 5, 64


@partial(jax.jit, static_argnums=0)
def visited(agent, params, env, key):
    """Every sixtieth `TimeStep` of games that the policy plays without search, `[B, ...]`."""
    start_key, play_key = jax.random.split(key)
    state, timestep = jax.vmap(env.reset)(jax.random.split(start_key, GAMES))

    def move(carry, key):
        state, timestep = carry
        act_key, env_key = jax.random.split(key)
        root = agent.root(params, params["slow"], timestep)
        logits, _ = agent.world.evaluate(params["slow"], root)
        action = jax.random.categorical(act_key, jnp.where(timestep.legal, logits, -jnp.inf))
        state, timestep, _ = jax.vmap(env.step)(jax.random.split(env_key, GAMES), state, action)
        return (state, timestep), timestep

    _, timesteps = jax.lax.scan(move, (state, timestep), jax.random.split(play_key, MOVES))
    seen = jax.tree.map(lambda leaf: leaf[SEEN_EVERY - 1 :: SEEN_EVERY], timesteps)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), seen)


@partial(jax.jit, static_argnums=0)
def measure(agent, params, env, key, timestep):
    """Mean absolute errors `[AHEAD]` of the three, and how many games last so long."""
    truth, dream = env.rules(), partial(agent.world.step, params["slow"])

    def wander(key, state):
        return distributions.anything(key, jax.vmap(env.environment.legal_actions)(state))

    def along(step, start, actions, key):
        """Rewards `[AHEAD, B]` of `actions` from a state or latent on."""

        def body(carry, inputs):
            outcome, carry = step(*inputs, carry)
            return carry, outcome.reward

        return jax.lax.scan(body, start, (jax.random.split(key, AHEAD), actions))[1]

    def mean(step, start, actions, key):
        keys = jax.random.split(key, TIMES)
        return jax.lax.map(partial(along, step, start, actions), keys).mean(axis=0)

    keys = jax.random.split(key, 3)
    _, actions, outcomes = imagine(keys[0], wander, truth, timestep.state, AHEAD)
    rewards = outcomes.reward
    # A game's last move counts, and none behind it.
    goes_on = jnp.concatenate([jnp.ones_like(rewards[:1]), outcomes.discount[:-1]])
    under_way = jnp.cumprod(goes_on, axis=0)
    games = under_way.sum(axis=1)
    one_number = jnp.sum(under_way * rewards, axis=1) / games
    guesses = {
        "one number": one_number[:, None],
        "the world": mean(dream, agent.root(params, params["slow"], timestep), actions, keys[1]),
        "the rules": mean(truth, timestep.state, actions, keys[2]),
    }
    errors = {
        name: jnp.sum(under_way * jnp.abs(guess - rewards), axis=1) / games
        for name, guess in guesses.items()
    }
    return errors, games


def main(run_dirs):
    rows = []
    for run_dir in run_dirs:
        agent, params, env = dz.load(run_dir)
        play_key, key = jax.random.split(jax.random.key(0))
        timestep = visited(agent, params, env, play_key)
        errors, games = measure(agent, params, env, key, timestep)
        rows += [
            {
                "run": Path(run_dir).name,
                "moves ahead": ahead + 1,
                **{name: float(error[ahead]) for name, error in errors.items()},
                "games": int(games[ahead]),
            }
            for ahead in range(AHEAD)
        ]
    report("foretold", rows)


if __name__ == "__main__":
    main(arguments("RUN"))
