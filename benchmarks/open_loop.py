"""Does a Dreamer foretell pictures better than the last one it saw? Where actions change something.

A greedy policy holds the pole so still that the last picture is hard to beat. So the run's policy
takes a share of its actions at random. Errors are root mean squares over pixels in [0, 1] and over
those of 128 episodes that last so long, of a world that saw 5 frames: of one sampled future, and of
the mean of 8. The run is of one seed, for three times as long as it takes to learn the task:

    dreamerzero train dreamer --env CartPole-pixels --steps 30000 --agent.train-ratio 32 \\
        --agent.batch-length 16 --agent.depth 4 --agent.capacity 40000 --run-dir runs/open-loop
    python benchmarks/open_loop.py runs/open-loop
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from common import arguments, report
from flax import struct

import dreamerzero as dz
from dreamerzero.training import dreams
from dreamerzero.types import ActorOutput

EPISODES, FUTURES = 128, 8


@struct.dataclass
class Wanderer:
    """Acts as `agent` does, but for a `share` of the actions, which are any."""

    agent: Any
    share: float

    def act(self, params, key, timestep, memory, *, explore: bool) -> ActorOutput:
        act_key, any_key, share_key = jax.random.split(key, 3)
        greedy, memory, extras = self.agent.act(params, act_key, timestep, memory, explore=explore)
        anything = jax.random.randint(any_key, greedy.shape, 0, self.agent.spec.action.num)
        wanders = jax.random.bernoulli(share_key, self.share, greedy.shape)
        action = jnp.where(wanders, anything, greedy)
        return ActorOutput(action, memory.replace(action=action), extras)

    def __getattr__(self, name):
        return getattr(self.agent, name)


@jax.jit
def measure(wanderer, params, env, key):
    play_key, dream_key = jax.random.split(key)
    played = dreams.play(wanderer, params, env, play_key, EPISODES, dreams.STEPS)
    dream = dreams.open_loop(wanderer, params, dream_key, played, FUTURES)
    mean = dream.replace(prediction=dream.prediction.mean(axis=0, keepdims=True))
    one, mean = (dreams.errors(wanderer.spec, params, futures) for futures in (dream, mean))
    return one, mean, dream.under_way.sum(axis=1)


def main(run_dir):
    agent, params, env = dz.load(run_dir)
    rows = []
    for share in (0.0, 0.3, 0.5, 1.0):
        one, mean, lasting = measure(Wanderer(agent, share), params, env, jax.random.key(5))
        rows += [
            {
                "actions at random": share,
                "steps ahead": ahead,
                "one future": float(one[f"prediction_error/{ahead}"]),
                "mean of 8": float(mean[f"prediction_error/{ahead}"]),
                "last frame seen": float(one[f"copy_error/{ahead}"]),
                "having seen it": float(one[f"reconstruction_error/{ahead}"]),
                "episodes": int(lasting[dreams.CONTEXT + ahead - 1]),
            }
            for ahead in dreams.HORIZONS
        ]
    report("open_loop", rows)


if __name__ == "__main__":
    main(*arguments("RUN", 1))
