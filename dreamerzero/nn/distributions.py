"""Action distributions: the one file that imports distrax."""

from __future__ import annotations

import math

import distrax
import jax
import jax.numpy as jnp

from dreamerzero import ops
from dreamerzero.types import Box, Discrete


def num_outputs(action: Box | Discrete) -> int:
    """How many numbers a policy network gives for `policy` to read."""
    return action.num if isinstance(action, Discrete) else 2 * action.shape[0]


def differentiable_sample(policy: distrax.Distribution, key):
    """An action with gradients to the policy: of its noise's place and width (reparametrised), or
    one-hot `[..., num]` with those of the probabilities (straight-through)."""
    if isinstance(policy, distrax.Categorical):
        log_probs = jax.nn.log_softmax(policy.logits)
        return ops.straight_through(log_probs, jax.random.gumbel(key, log_probs.shape))
    return policy.sample(seed=key)


def policy(outputs, action: Box | Discrete, unimix) -> distrax.Distribution:
    """The distribution over actions that a policy's `outputs [..., num_outputs(action)]` mean.

    Discrete: categorical, mixed with a fraction `unimix` of the uniform one. Continuous: a normal
    with mean tanh(μ) and standard deviation in [0.1, 1], its samples not clipped.
    """
    if isinstance(action, Discrete):
        return distrax.Categorical(logits=ops.unimix(outputs, unimix))
    mean, std = jnp.split(outputs, 2, axis=-1)
    std = 0.1 + 0.9 * jax.nn.sigmoid(std + 2.0)
    return distrax.Independent(distrax.Normal(jnp.tanh(mean), std), 1)


def squashed(outputs) -> distrax.Distribution:
    """tanh(x) with x normal, of a policy's `outputs [..., 2 A]`: actions within (−1, 1) that have a
    density (Haarnoja et al. 2018b, appendix C). Use `sample_and_log_prob`: to go back from a sample
    to x loses its digits."""
    mean, log_std = jnp.split(outputs, 2, axis=-1)
    normal = distrax.Normal(mean, jnp.exp(jnp.clip(log_std, -20.0, 2.0)))
    return distrax.Independent(distrax.Transformed(normal, distrax.Tanh()), 1)


def squashed_middle(outputs):
    """The action in the middle of `squashed(outputs)`: the tanh of its normal's mean."""
    return jnp.tanh(jnp.split(outputs, 2, axis=-1)[0])


def tempered(policy: distrax.Distribution, temperature) -> distrax.Distribution:
    """The distribution proportional to policy^(1/temperature): above 1 it is broader."""
    if isinstance(policy, distrax.Categorical):
        return distrax.Categorical(logits=policy.logits / temperature)
    normal = policy.distribution
    return distrax.Independent(distrax.Normal(normal.loc, normal.scale * temperature**0.5), 1)


def mixture(outputs) -> distrax.Distribution:
    """Independent mixtures of normals, one for each of D numbers, of `outputs [..., D, 3, K]`: the
    logits, means and log σ of K normals each."""
    logits, mean, log_std = jnp.moveaxis(outputs, -2, 0)
    normals = distrax.Normal(mean, jnp.exp(log_std))
    each = distrax.MixtureSameFamily(distrax.Categorical(logits=logits), normals)
    return distrax.Independent(each, 1)


def mixture_sample(key, outputs, temperature=1.0):
    """A sample `[..., D]` of `mixture(outputs)`, with 2 random numbers for each of its own and not
    2 K: in a dream they are most of the work.

    At a temperature τ logits are divided by τ and σ is multiplied by √τ (Ha & Schmidhuber 2018,
    appendix A.2): above 1 there is more chance, and near 0 only the likeliest mean.
    """
    logits, mean, log_std = jnp.moveaxis(outputs, -2, 0)
    which_key, noise_key = jax.random.split(key)
    below = jnp.cumsum(jax.nn.softmax(logits / temperature), axis=-1)
    point = jax.random.uniform(which_key, mean.shape[:-1])[..., None]
    which = jnp.sum(below <= point, axis=-1, keepdims=True)
    which = jnp.minimum(which, mean.shape[-1] - 1)  # if rounding leaves the sum below 1
    mean, log_std = (jnp.take_along_axis(x, which, axis=-1)[..., 0] for x in (mean, log_std))
    std = jnp.exp(log_std) * jnp.sqrt(temperature)
    return mean + std * jax.random.normal(noise_key, mean.shape)


def stratified(key, parts):
    """Actions drawn from several distributions, a fixed number of each.

    Returns:
      Actions `[K, ...]` and the logs `[K, ...]` of the density that they have together, in whatever
      order: that of the mixture in which each part has its share of them. Dividing by it is right
      on average, for all that the parts are not drawn by chance (Veach & Guibas 1995).
    Args:
      parts: pairs of a distribution and its number of actions, 0 or more.
    """
    parts = [(part, count) for part, count in parts if count]
    keys = [key] if len(parts) == 1 else jax.random.split(key, len(parts))
    drawn = [part.sample(seed=key, sample_shape=n) for key, (part, n) in zip(keys, parts)]
    actions, total = jnp.concatenate(drawn), sum(count for _, count in parts)
    logs = [part.log_prob(actions) + math.log(count / total) for part, count in parts]
    return actions, jax.nn.logsumexp(jnp.stack(logs), axis=0)


def anything(key, legal):
    """Any action `[...]` of those that are `legal [..., A]`."""
    return jax.random.categorical(key, jnp.where(legal, 0.0, -jnp.inf))
