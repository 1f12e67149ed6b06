"""What a world makes of a future it does not see, beside the future that came.

The agent plays greedily and filters in every frame. From the latent after `CONTEXT` frames its
world goes on without frames: with the actions that were truly taken (open loop), or with those that
the agent prefers in the dream (imagination).

    frames   0 … CONTEXT − 1   CONTEXT …
    truth    o_0 …    o_4      o_5 = successor of (o_4, a_4) …
    world    filtered z_4   →  ẑ_5 ~ prior(z_4, a_4), ẑ_6 ~ prior(ẑ_5, a_5) …

An agent can dream if it decides from a latent of its world, `greedy(params, key, latent)`, and the
world can say what a latent shows, `reconstruct(params, latent)`. Its memory holds the latent.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero import ops
from dreamerzero.agents import AGENTS, sequences
from dreamerzero.envs import HostEnv
from dreamerzero.planning import imagine
from dreamerzero.training.lanes import over_lanes
from dreamerzero.types import Box, Discrete, Metrics, Rollout, UsageError

CONTEXT = 5
HORIZONS = (1, 5, 15, 45)
STEPS = CONTEXT + HORIZONS[-1]
"""Frames that show every horizon, if the episode lasts."""
LONG = 500
"""Steps where there is time: over fewer, most of a return is the value that stands for its rest."""
EPISODES = 16


@struct.dataclass
class Dream:
    """B first episodes in F frames, and S futures of each over H = F − `CONTEXT` frames.

    Observations are floats in the environment's units, or class probabilities `[..., num]`.
    """

    observation: jax.Array  # [F, B, ...]
    reward: jax.Array  # [F, B], of arriving in the frame
    under_way: jax.Array  # [F, B]: the frame still belongs to the first episode
    acted: jax.Array  # [F, B]: and is not its last, which the agent never sees
    reconstruction: jax.Array  # [F, B, ...], from the latent that has seen the frame
    prediction: jax.Array  # [S, H, B, ...], open loop
    predicted_reward: jax.Array  # [S, H, B]


@struct.dataclass
class Imagination:
    """S times H imagined frames of B episodes under the agent's own actions."""

    observation: jax.Array  # [S, H, B, ...]
    reward: jax.Array  # [S, H, B]
    going_on: jax.Array  # [S, H, B]: how likely the episode has come so far


def can_dream(agent, env=None) -> bool:
    """Whether an agent, or a class of agents, can dream, and in `env`: not of one on the host."""
    return hasattr(agent, "greedy") and not isinstance(env, HostEnv)


def require(name: str, agent, env) -> None:
    """Raises UsageError if the agent of that name cannot dream of `env`."""
    if not can_dream(agent):
        able = ", ".join(other for other, kind in AGENTS.items() if can_dream(kind))
        raise UsageError(f"{name} has no world that could show a dream. Agents that dream: {able}.")
    if not can_dream(agent, env):
        raise UsageError(
            f"{env.name} is stepped by Python: dreams can be laid only beside environments that "
            "are part of the program, see `dreamerzero envs`."
        )


@partial(jax.jit, static_argnames=("episodes", "steps"))
def measure(agent, params, env, key, episodes: int = EPISODES, steps: int = STEPS) -> Metrics:
    """How far the world's predictions, and the agent's values, are from what comes.

    Args:
      params: of one run.
      episodes: environments, each with one first episode for the predictions.
      steps: in each of them, `STEPS` or more; values are compared over all, also beyond the
        first episode.
    Returns:
      Scalars by name, NaN where no episode was that long: what `errors` returns, and what
      `calibration` returns if the agent has values.
    """
    play_key, dream_key = jax.random.split(key)
    played = play(agent, params, env, play_key, episodes, steps)
    metrics = errors(agent.spec, params, open_loop(agent, params, dream_key, played))
    if hasattr(agent, "value"):
        metrics |= calibration(*values(agent, params, played))
    return metrics


# It runs for a moment at each evaluation: optimising it would take longer than it ever saves.
@partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def measure_lanes(agent, params, env, keys) -> Metrics:
    """`measure` for lanes of params and keys `[K, ...]`: scalars `[K]`."""

    def lane(inputs):
        params, key = inputs
        return measure(agent, params, env, key)

    return over_lanes(agent, lane)((params, keys))


@partial(jax.jit, static_argnames=("episodes", "futures"))
def dream(agent, params, env, key, episodes: int, futures: int) -> tuple[Dream, Imagination]:
    """The first `episodes` of `EPISODES` that outlast the context, each dreamt `futures` times.

    If fewer do, the last ones are not `under_way` in any frame after the context.
    """
    play_key, open_key, closed_key = jax.random.split(key, 3)
    played = play(agent, params, env, play_key, EPISODES, STEPS)
    over = played.next_timestep.is_last[: CONTEXT - 1].any(axis=0)
    chosen = jnp.argsort(over, stable=True)[:episodes]
    played = jax.tree.map(lambda leaf: leaf[:, chosen], played)
    predicted = open_loop(agent, params, open_key, played, futures)
    return predicted, imagination(agent, params, closed_key, played, futures)


def play(agent, params, env, key, episodes: int, steps: int) -> Rollout:
    """Acts greedily in `episodes` fresh environments, from one episode on into the next.

    Returns:
      The rollout `[T, B, ...]`, whose `extras` are the latents filtered at `timestep`.
    """
    reset_key, run_key = jax.random.split(key)
    env_state, timestep = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))

    def step(carry, keys):
        env_state, timestep, memory = carry
        action, memory, _ = agent.act(params, keys[0], timestep, memory, explore=False)
        env_state, following, successor = jax.vmap(env.step)(
            jax.random.split(keys[1], episodes), env_state, action
        )
        rollout = Rollout(timestep, action, successor, memory.latent)
        return (env_state, following, memory), rollout

    carry = env_state, timestep, agent.memory(episodes)
    return jax.lax.scan(step, carry, jax.random.split(run_key, (steps, 2)))[1]


def open_loop(agent, params, key, played: Rollout, futures: int = 1) -> Dream:
    """What the world predicts of the first `STEPS` frames from the context and the actions."""
    spec, world = agent.spec, agent.world
    played = jax.tree.map(lambda leaf: leaf[:STEPS], played)
    before = jax.tree.map(lambda leaf: leaf[:-1], played)  # the steps that led to these frames
    came = before.next_timestep
    actions = before.action[CONTEXT - 1 :]

    def body(latent, inputs):
        key, action = inputs
        prediction, latent = world.step(params["world"], key, action, latent)
        return latent, (latent, prediction.reward)

    def future(keys):
        _, (latents, rewards) = jax.lax.scan(body, _context(played), (keys, actions))
        return _show(agent, params, latents), rewards

    keys = jax.random.split(key, (futures, len(actions)))
    prediction, predicted_reward = jax.vmap(future)(keys)
    acted = _append(jnp.ones_like(came.is_last), jnp.cumsum(came.is_last, axis=0) == 0)
    return Dream(
        observation=_as_shown(spec, _append(played.timestep.observation, came.observation)),
        reward=_append(jnp.zeros_like(came.reward), came.reward),
        under_way=_append(acted, acted[:-1]),
        acted=acted,
        reconstruction=_show(agent, params, played.extras),
        prediction=prediction,
        predicted_reward=predicted_reward,
    )


def imagination(agent, params, key, played: Rollout, futures: int) -> Imagination:
    """What the world and the agent make of the context alone, to the same length."""
    world = agent.world

    def future(key):
        latents, _, prediction = imagine(
            key,
            lambda key, latent: agent.greedy(params, key, latent),
            lambda key, action, latent: world.step(params["world"], key, action, latent),
            _context(played),
            STEPS - CONTEXT,
        )
        survives = prediction.discount / (1.0 - 1.0 / agent.horizon)
        going_on = jnp.cumprod(_append(jnp.ones_like(survives), survives[:-1]), axis=0)
        latents = jax.tree.map(lambda leaf: leaf[1:], latents)
        return Imagination(_show(agent, params, latents), prediction.reward, going_on)

    return jax.vmap(future)(jax.random.split(key, futures))


def errors(spec, params, dream: Dream) -> Metrics:
    """Root-mean-square errors at `HORIZONS`, over the episodes that are still under way there.

    Each name ends in /h, for h steps beyond the context. The mean is over episodes, futures and the
    elements of an observation; the unit is the whole range of a pixel, the running standard
    deviation of a vector's coordinate, or 1 for a class's probability.

    Returns:
      Scalars: `prediction_error` in open loop, `copy_error` of repeating the context's last frame,
      `reconstruction_error` of having seen the frame (not of final ones); `reward_error` in open
      loop beside the mean `predicted_reward` and the mean `true_reward`.
    """
    truth, reward = dream.observation[CONTEXT:], dream.reward[CONTEXT:]

    def mean(values, among=dream.under_way):  # [..., H, B] -> [H]
        values = values.reshape(-1, *values.shape[-2:])
        return jnp.mean(values, axis=(0, 2), where=among[CONTEXT:])

    def error(shown, among=dream.under_way):
        return jnp.sqrt(mean(_squared_distance(spec, params, shown, truth), among))

    curves = {
        "prediction_error": error(dream.prediction),
        "copy_error": error(jnp.broadcast_to(dream.observation[CONTEXT - 1], truth.shape)),
        "reconstruction_error": error(dream.reconstruction[CONTEXT:], dream.acted),
        "reward_error": jnp.sqrt(mean(jnp.square(dream.predicted_reward - reward))),
        "predicted_reward": mean(dream.predicted_reward),
        "true_reward": mean(reward),
    }
    return {f"{name}/{h}": curve[h - 1] for name, curve in curves.items() for h in HORIZONS}


def values(agent, params, played: Rollout):
    """The agent's value of each state, beside the discounted return that it had.

    γ is 1 − 1/horizon. An episode that is cut, by its time limit or by the last step, counts up to
    the last state seen in it, whose value stands for the rest.

    Returns:
      Values, returns, and which of them may be compared: not where a value stands for itself;
      `[T, B]` each.
    """
    value, came = agent.value(params, played.extras), played.next_timestep
    cut = (came.truncated & ~came.terminated).at[-1].set(True)
    going_on = 1.0 - (cut | came.terminated)
    returns = jax.vmap(partial(ops.lambda_returns, lambda_t=1.0), 1, 1)(
        jnp.where(cut, value, came.reward), going_on * (1.0 - 1.0 / agent.horizon), value
    )
    return value, returns, ~cut


def calibration(value, returns, among) -> Metrics:
    """How well values `[T, B]` foretell returns: means, correlation and mean absolute error."""
    mean = partial(jnp.mean, where=among)
    a, b = value - mean(value), returns - mean(returns)
    return {
        "value": mean(value),
        "return": mean(returns),
        "value_correlation": mean(a * b) / jnp.sqrt(mean(a * a) * mean(b * b)),
        "value_error": mean(jnp.abs(value - returns)),
    }


def _context(played: Rollout):
    return jax.tree.map(lambda leaf: leaf[CONTEXT - 1], played.extras)


def _append(before, after):
    """The first of `before` and all of `after`, along their first axis."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a[:1], b]), before, after)


def _show(agent, params, latent):
    shown = agent.world.reconstruct(params["world"], latent)
    return sequences.show(agent.spec, params, shown)


def _as_shown(spec, observation):
    """An observation as `Dream` has it."""
    if isinstance(spec.observation, Discrete):
        return jax.nn.one_hot(observation, spec.observation.num)
    return observation.astype(jnp.float32)


def _squared_distance(spec, params, shown, truth):
    """Mean over an observation's elements: `[...]`."""
    difference = sequences.see(spec, params, shown) - sequences.see(spec, params, truth)
    shape = spec.observation.shape
    if isinstance(spec.observation, Box) and len(shape) > 1:
        difference /= spec.observation.high - spec.observation.low
    return jnp.mean(jnp.square(difference), axis=tuple(range(-max(1, len(shape)), 0)))
