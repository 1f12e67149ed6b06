"""What does the house cost a search? The agent's own against mctx called by hand, same networks.

Every pair runs in turn, in one process. Ratios above 1: the agent's takes longer. By hand action
values are always measured by siblings, as mctx does it.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from itertools import product

import jax
import mctx
from common import arguments, report

from dreamerzero import agents, envs

BATCHES = (1, 64, 512)
SIMULATIONS = (8, 16, 32, 50)
RANGES = ("siblings", "tree")  # that measures action values: mctx's own, and our default
REPEATS = 30


def main():
    arguments()
    env = envs.make("CartPole-v1")
    rows = []
    for search, simulations, range_of in product(("gumbel", "puct"), SIMULATIONS, RANGES):
        sizes = {"search": search, "simulations": simulations, "tree_range": range_of == "tree"}
        agent = agents.make("muzero", env, **sizes)
        world = jax.jit(agent.world.init)(jax.random.key(0))
        for batch in BATCHES:
            rows.append({"search": search, "n": simulations, "range": range_of, "batch": batch})
            rows[-1] |= measure(agent, world, batch)
    report("search_speed", rows)


def measure(agent, world, batch: int) -> dict:
    """Milliseconds of both, their ratio, and the agent's simulations a second."""
    key = jax.random.key(1)
    latent = jax.random.uniform(jax.random.key(2), (batch, agent.latent))
    ours = jax.jit(partial(by_agent, agent))
    theirs = jax.jit(partial(by_hand, agent))
    for call in (ours, theirs):
        jax.block_until_ready(call(world, key, latent))
    calls = max(1, 2000 // (batch * agent.simulations))  # so that one time is no instant
    times = {ours: [], theirs: []}
    for repeat in range(2 * REPEATS):
        call = (ours, theirs)[repeat % 2]
        start = time.perf_counter()
        for _ in range(calls):
            result = call(world, key, latent)
        jax.block_until_ready(result)
        times[call].append((time.perf_counter() - start) / calls)
    own, bare = (statistics.median(times[call]) for call in (ours, theirs))
    return {
        "ours ms": 1e3 * own,
        "mctx ms": 1e3 * bare,
        "ratio": own / bare,
        "simulations/s": batch * agent.simulations / own,
    }


def by_agent(agent, world, key, latent):
    choice = agent.plan({"updates": 0}, world, key, latent, explore=True)
    return choice.action, choice.lesson.policy


def by_hand(agent, world, key, latent):
    """What someone writes who only has mctx and the networks: the action and the policy."""

    def recurrent(_, key, action, latent):
        prediction, latent = agent.world.step(world, key, action, latent)
        logits, value = agent.world.evaluate(world, latent)
        output = mctx.RecurrentFnOutput(
            reward=prediction.reward, discount=prediction.discount, prior_logits=logits, value=value
        )
        return output, latent

    logits, value = agent.world.evaluate(world, latent)
    root = mctx.RootFnOutput(prior_logits=logits, value=value, embedding=latent)
    policy = mctx.gumbel_muzero_policy if agent.search == "gumbel" else mctx.muzero_policy
    output = policy(None, key, root, recurrent, agent.simulations)
    return output.action, output.action_weights


if __name__ == "__main__":
    main()
