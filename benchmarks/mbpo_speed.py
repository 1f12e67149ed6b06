"""How many steps does the whole of MBPO make in a second of a core?

At the sizes that mbrl has for its cartpole: 20 updates of SAC for every step of the environment,
and after every 200 steps a refit of the ensemble and 80,000 rollouts of one step. mbrl's own loop
is not run: the ratio is with a figure for it from elsewhere. `ensemble_speed.py` races its parts.
"""

from __future__ import annotations

import sys

import jax
from common import arguments, report
from peers import race, serve

import dreamerzero as dz
from dreamerzero.training import program

MBRL = 4.44  # steps in a second of a core
REFITS = 2  # in each of two goes, the first of which is not counted


def main():
    arguments()
    (row,) = race({"ours": [sys.executable, __file__, "ours"]}, ["step"], repeats=1)
    made = 1e3 / row["ours cpu ms"]
    report("mbpo_speed", [row | {"steps/CPU s": made, "ours/mbrl": made / MBRL}])


def ours() -> dict:
    """Steps with all that a run does for them, once it has learnt from 200."""
    env = dz.make_env("CartPoleSwingup-v0")
    sizes = {"train_ratio": 20 * 256.0, "refit_every": 200, "rollouts": 80_000}
    agent = dz.make_agent("mbpo", env, "paper", prefill=200, capacity=20_000, **sizes)
    prefill, train = agent.phases(agent.prefill + REFITS * agent.refit_every)
    prefill, train = (
        jax.jit(lambda state, phase=phase: program.complete(agent, env, phase, state)[0])
        for phase in (prefill, train)
    )
    states = [prefill(program.start(agent, env, jax.random.key(0)))]

    def go():
        states.append(jax.block_until_ready(train(states.pop())))

    return {"step": (REFITS * agent.refit_every, go)}


if __name__ == "__main__":
    serve(ours()) if "ours" in sys.argv else main()
