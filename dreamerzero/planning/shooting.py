"""Planning by shooting: draw action sequences, ask what each would return, draw better ones.

    random shooting   the best of many uniform sequences
    cem               a normal distribution, refitted to the best (PETS, PlaNet)
    icem              the same with coloured noise and a memory of the best (Pinneri et al. 2020)
    mppi              the same with the best weighted by their returns (Williams et al., TD-MPC)

All ask `score(key, actions [N, H, A]) -> returns [N]`, in which a return that is not finite ranks
last; `scorer` makes one of a world's step. They plan from one state: `vmap` them over states.
Between two real steps `shift` moves a plan on, as the next search's start.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class Plan(NamedTuple):
    """What a search found.

    `actions [H, A]` is the sequence to follow, of which a controller takes the first action, and
    `returns [N]` the last population's. The next search starts from `mean [H, A]`, the final
    distribution's, and `elites [K, H, A]`, the last population's best, the very best first.
    """

    actions: jax.Array
    returns: jax.Array
    mean: jax.Array
    elites: jax.Array


def scorer(step, latent, *, particles: int = 1, value=None):
    """The return that a world predicts for action sequences, starting from one latent.

    R_n = 1/P Σ_p [ Σ_t (Π_{k<t} γ_k) r_t + (Π_{k<H} γ_k) v(z_H) ],  γ_t the predicted discounts
    (Chua et al. 2018, algorithm 1, the average over particles; Hansen et al. 2022, algorithm 1, v).

    What follows a discount of 0 does not count, whatever a model makes of the states past the end.

    Args:
      step: `(key, action [N·P, A], latent) -> (Prediction, latent)`, one step of a world.
      latent: where to start, leaves without a batch axis.
      particles: P, how often a stochastic world is asked about each sequence. Particle p of
        sequence n is row n·P + p.
      value: `latent -> [N·P]`, what is expected after the horizon; nothing if None.
    Returns:
      `score(key, actions [N, H, A]) -> returns [N]`.
    """

    def score(key, actions):
        chex.assert_rank(actions, 3)
        population, horizon, _ = actions.shape
        rows = population * particles
        start = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape)), latent)

        def body(carry, inputs):
            latent, returns, discount = carry
            key, action = inputs
            prediction, latent = step(key, jnp.repeat(action, particles, axis=0), latent)
            returns += _discounted(discount, prediction.reward)
            return (latent, returns, _discounted(discount, prediction.discount)), None

        (last, returns, discount), _ = jax.lax.scan(
            body,
            (start, jnp.zeros(rows), jnp.ones(rows)),
            (jax.random.split(key, horizon), actions.swapaxes(0, 1)),
        )
        if value is not None:
            returns += _discounted(discount, value(last))
        return returns.reshape(population, particles).mean(axis=1)

    return score


def shift(sequence, last=None):
    """Moves a plan on by one step: a warm start for the next search.

    Args:
      sequence: actions `[..., H, A]`, a plan's mean or its elites.
      last: the action that fills the end, a scalar or `[A]`. PETS and TD-MPC give 0; None repeats
        the last one, as iCEM does with its mean.
    """
    end = sequence[..., -1:, :]
    end = end if last is None else jnp.broadcast_to(last, end.shape)
    return jnp.concatenate([sequence[..., 1:, :], end], axis=-2)


def coloured_noise(key, beta, shape):
    """Normal noise whose power falls with frequency along an axis of time.

    E|X(f)|² ∝ max(f, 1/H)^−β  (Pinneri et al. 2020, §3.1): white for β = 0, slower the larger β.
    Every element has mean 0 and variance 1.

    Args:
      beta: exponent, scalar.
      shape: `(N, H, A)`; sequences and their coordinates are independent.
    """
    horizon = shape[1]
    # The constant part has the power of the slowest wave, or it would be infinite.
    gain = jnp.maximum(jnp.abs(jnp.fft.fftfreq(horizon)), 1.0 / horizon) ** (-beta / 2.0)
    gain /= jnp.sqrt(jnp.mean(gain**2))
    spectrum = jnp.fft.rfft(jax.random.normal(key, shape), axis=1)
    return jnp.fft.irfft(gain[: spectrum.shape[1], None] * spectrum, n=horizon, axis=1)


def random_shooting(key, score, low, high, *, population: int, horizon: int) -> Plan:
    """The best of `population` uniform sequences (Nagabandi et al. 2018, §IV.C).

    Args:
      score: `(key, actions [N, H, A]) -> returns [N]`.
      low, high: bounds, `[A]`.
    """
    chex.assert_rank([low, high], 1)
    sample_key, score_key = jax.random.split(key)
    shape = (population, horizon, *low.shape)
    actions = jax.random.uniform(sample_key, shape, minval=low, maxval=high)
    returns = score(score_key, actions)
    _, elites = _best(returns, actions, 1)
    return Plan(elites[0], returns, elites[0], elites)


def cem(
    key, score, mean, std, low, high, *, population: int, elites: int, iterations: int, alpha=0.0
) -> Plan:
    """Cross-entropy method (Chua et al. 2018, §5; with α = 0 Hafner et al. 2019, algorithm 2).

    a = clip(μ + σ ε),  ε ~ N(0, 1) within ±2
    μ ← α μ + (1 − α) mean(elites),  σ² ← α σ² + (1 − α) var(elites)

    PETS keeps σ below half the distance from μ to the nearest bound; this clips instead, so that
    many candidates lie on the bounds, where good actions often are. Measured in the true dynamics
    of Pendulum-v1 with 3 iterations of 64, mean return of 8 episodes: −199 so and −137 clipped.

    Args:
      score: `(key, actions [N, H, A]) -> returns [N]`.
      mean, std: the distribution to start from, `[H, A]`.
      low, high: bounds, `[A]`.
      alpha: momentum in [0, 1), of the variance too; PETS has 0.1.
    Returns:
      A plan that follows the final mean.
    """
    _check(mean, std, low, high)

    def refine(carry, key):
        mean, std = carry
        sample_key, score_key = jax.random.split(key)
        noise = jax.random.truncated_normal(sample_key, -2.0, 2.0, (population, *mean.shape))
        actions = jnp.clip(mean + std * noise, low, high)
        returns = score(score_key, actions)
        top, best = _best(returns, actions, elites)
        new_mean, new_std = _fit(jnp.isfinite(top), best, mean, std)
        mean = alpha * mean + (1 - alpha) * new_mean
        std = jnp.sqrt(alpha * std**2 + (1 - alpha) * new_std**2)
        return (mean, std), (returns, best)

    keys = jax.random.split(key, iterations)
    (mean, _), (returns, best) = jax.lax.scan(refine, (mean, std), keys)
    mean = jnp.clip(mean, low, high)  # the first mean may lie outside, and rounding can
    return Plan(mean, returns[-1], mean, best[-1])


def icem(
    key,
    score,
    mean,
    std,
    kept,
    low,
    high,
    *,
    population: int,
    elites: int,
    iterations: int,
    decay: float,
    beta,
    alpha,
) -> Plan:
    """Improved cross-entropy method (Pinneri et al. 2020, algorithm 1).

    a = clip(μ + σ ε),  ε coloured by β;  N_i = max(N · decay^−i, 2K) of them in iteration i,
    to which it adds the last iteration's M best, and in its last iteration μ
    μ ← α μ + (1 − α) mean(elites),  σ ← α σ + (1 − α) std(elites)

    Sequences kept are scored again: with a stochastic score, a lucky one would otherwise stay.

    Args:
      score: `(key, actions [N, H, A]) -> returns [N]`.
      mean, std: the distribution to start from, `[H, A]`.
      kept: sequences that the first iteration adds, `[M, H, A]`, M ≤ K: the best of the last
        search, shifted, or any others if there was none. M is also how many each iteration keeps.
      low, high: bounds, `[A]`.
      population, elites: N and K.
      decay: by what the population shrinks from iteration to iteration, at least 1. Static.
      beta: exponent of the noise's colour, scalar; 0 is white.
      alpha: momentum in [0, 1).
    Returns:
      A plan that follows the best sequence of the last population, or the mean if no return in it
      is finite. Its `returns` are `[N_last + M + 1]`.
    """
    _check(mean, std, low, high)
    chex.assert_shape(kept, (None, *mean.shape))
    num_kept = kept.shape[0]

    sizes = [max(int(population * decay**-i), 2 * elites) for i in range(iterations)]
    noise_key, *score_keys = jax.random.split(key, iterations + 1)
    noise = coloured_noise(noise_key, beta, (sum(sizes), *mean.shape))  # one graph for all

    # Populations differ in size, so this is a loop in Python: a scan would need one shape.
    for i, score_key in enumerate(score_keys):
        first, noise = noise[: sizes[i]], noise[sizes[i] :]
        candidates = [mean + std * first, kept]
        if i == iterations - 1:
            candidates.append(mean[None])
        actions = jnp.clip(jnp.concatenate(candidates), low, high)
        returns = score(score_key, actions)
        top, best = _best(returns, actions, elites)
        new_mean, new_std = _fit(jnp.isfinite(top), best, mean, std)
        mean = alpha * mean + (1 - alpha) * new_mean
        std = alpha * std + (1 - alpha) * new_std
        kept = best[:num_kept]

    mean = jnp.clip(mean, low, high)
    return Plan(jnp.where(jnp.isfinite(top[0]), best[0], mean), returns, mean, best)


def mppi(
    key,
    score,
    mean,
    std,
    low,
    high,
    *,
    population: int,
    elites: int,
    iterations: int,
    temperature,
    min_std,
    max_std,
) -> Plan:
    """Model predictive path integral control, as TD-MPC has it (Hansen et al. 2022, algorithm 1).

    a_n = clip(μ + σ ε_n),  ε ~ N(0, 1)
    w_k ∝ exp(R_k / λ) over the elites  (Williams et al. 2017, algorithm 2, in which all are elites)
    μ ← Σ_k w_k a_k,  σ² ← Σ_k w_k (a_k − μ)², σ within [min_std, max_std]

    λ is a temperature in the return's units, as in Williams et al.; the "temperature" 0.5 of
    TD-MPC multiplies the return, and is λ = 2 here. With `min_std` = `max_std` σ stays.

    Args:
      score: `(key, actions [N, H, A]) -> returns [N]`.
      mean, std: the distribution to start from, `[H, A]`.
      low, high: bounds, `[A]`.
      temperature: λ > 0.
      min_std, max_std: bounds of σ after each refit, scalars or broadcast to `[H, A]`.
    Returns:
      A plan that follows the final mean.
    """
    _check(mean, std, low, high)

    def refine(carry, key):
        mean, std = carry
        sample_key, score_key = jax.random.split(key)
        noise = jax.random.normal(sample_key, (population, *mean.shape))
        actions = jnp.clip(mean + std * noise, low, high)
        returns = score(score_key, actions)
        top, best = _best(returns, actions, elites)
        weights = jnp.where(jnp.isfinite(top), jnp.exp((top - top[0]) / temperature), 0.0)
        mean, std = _fit(weights, best, mean, std)
        return (mean, jnp.clip(std, min_std, max_std)), (returns, best)

    keys = jax.random.split(key, iterations)
    (mean, _), (returns, best) = jax.lax.scan(refine, (mean, std), keys)
    mean = jnp.clip(mean, low, high)
    return Plan(mean, returns[-1], mean, best[-1])


def _check(mean, std, low, high):
    chex.assert_rank([mean, std], 2)
    chex.assert_equal_shape([mean, std])
    chex.assert_shape([low, high], mean.shape[-1:])


def _best(returns, actions, count):
    """The `count` best of a population, best first, with their returns (not finite ones are −inf).

    Ranking a NaN as any number would let the search seek the states where a model breaks down.
    """
    chex.assert_shape(returns, actions.shape[:1])
    top, index = jax.lax.top_k(jnp.where(jnp.isfinite(returns), returns, -jnp.inf), count)
    return top, actions[index]


def _fit(weights, actions, mean, std):
    """Weighted mean and deviation of `actions [K, H, A]`; the given ones if all weights are 0."""
    weights = weights.astype(actions.dtype)[:, None, None]
    total = weights.sum()
    # Sums, not matrix products: those round to ten bits on a GPU.
    share = weights / jnp.where(total > 0, total, 1.0)
    new_mean = (share * actions).sum(axis=0)
    new_std = jnp.sqrt((share * (actions - new_mean) ** 2).sum(axis=0))
    return jnp.where(total > 0, new_mean, mean), jnp.where(total > 0, new_std, std)


def _discounted(discount, value):
    # Only an end drops what follows: a discount that is NaN must spoil the return.
    return jnp.where(discount == 0, 0.0, discount * value)
