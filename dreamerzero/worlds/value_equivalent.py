"""A latent model of rewards, values and policies alone: what a search needs, and no pictures.

    s_0 = h(o_0)                        representation
    s_k = g(s_{k−1}, a_{k−1})           dynamics
    r_k, c_k = outcome(s_k)             reward of arriving there, whether the episode goes on
    p_k, v_k = f(s_k)                   prediction, for the search

Nothing asks of s that it shows the observation: s_k must only foretell what s = h(o_k) would
(Schrittwieser et al. 2020). Different from the paper: the model knows that episodes end, so that no
search looks for rewards behind the end; it knows which moves of a game are legal, so that none
looks for them among others; and reward and policy are read from the new state alone.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero.nn.distributions import num_outputs, policy
from dreamerzero.nn.heads import Support, bernoulli_loss
from dreamerzero.nn.networks import MLP, ConvEncoder, PictureEncoder, is_picture
from dreamerzero.nn.observations import network_input
from dreamerzero.types import Box, Discrete, EnvSpec, Prediction, static


@struct.dataclass
class Unroll:
    """What the model should say along K steps from each of B observations."""

    observation: jax.Array  # [B, ...]
    action: jax.Array  # [K, B]
    reward: jax.Array  # [K, B], of each action
    going_on: jax.Array  # [K, B]: the episode did not terminate with it
    stepped: jax.Array  # [K, B]: the action was really taken, and not in the next episode
    policy: jax.Array  # [K + 1, B, A], over all actions, or over those that were sampled
    value: jax.Array  # [K + 1, B]
    decided: jax.Array  # [K + 1, B]: there was a choice, of the first episode
    weight: jax.Array | float = 1.0  # [B], of each window in the loss
    sampled: jax.Array | None = None  # [K + 1, B, A, ...]: the actions that `policy` is over
    legal: jax.Array | None = None  # [K + 1, B, A], in games


@struct.dataclass
class ValueEquivalent:
    """A `World` whose latents are vectors `[B, latent]` in [0, 1].

    With two players rewards and values are those of who is to move, and discounts are negative.
    """

    spec: EnvSpec = static()
    latent: int = static()
    layers: int = static()
    units: int = static()
    depth: int = static()  # channels of the image encoder
    support: int = static()  # h of the largest reward or value
    discount: float = 0.997
    value_scale: float = 0.25
    foresees: bool = static(True)  # or knows no more than policy and value of what is observed

    @property
    def scalar(self) -> Support:
        return Support(self.support)

    @property
    def net(self) -> Networks:
        return Networks(
            self.spec.observation,
            num_outputs(self.spec.action),
            self.latent,
            self.layers,
            self.units,
            self.depth,
            self.scalar.num,
            self.spec.masked,
        )

    def init(self, key):
        action = jnp.zeros((1, *self.spec.action.shape), self.spec.action.dtype)
        observation = jnp.zeros((1, *self.spec.observation.shape), self.spec.observation.dtype)
        if not self.foresees:
            return self.net.init(key, observation, method=Networks.glance)
        return self.net.init(key, observation, self._action(action))

    def initial(self, batch_size: int):
        return jnp.zeros((batch_size, self.latent))

    def observe(self, params, key, latent, action, observation, is_first):
        """The latent of one observation `[B, ...]`, whatever came before."""
        return self.represent(params, observation)

    def represent(self, params, observation):
        """h: observations `[..., *shape]` to latents `[..., latent]`."""
        return self._apply(params, Networks.represent, observation)

    def step(self, params, key, action, latent) -> tuple[Prediction, jax.Array]:
        """Imagines one step `[B, ...]`; there is no chance in it, and `key` is not used."""
        latent = self._apply(params, Networks.dynamics, latent, self._action(action))
        reward, logit = self._apply(params, Networks.outcome, latent)
        going_on = self.spec.sign * self.discount * jax.nn.sigmoid(logit)
        return Prediction(self.scalar.mean(reward), going_on), latent

    def evaluate(self, params, latent):
        """f: what parametrises the policy, `[..., A]` logits if actions are discrete, and the value
        `[...]` of latents `[..., latent]`. In games a logit has that of the move's being legal."""
        outputs, value = self._apply(params, Networks.prediction, latent)
        if self.spec.masked and self.foresees:
            outputs += jax.nn.log_sigmoid(self._apply(params, Networks.legality, latent))
        return outputs, self.scalar.mean(value)

    def policy(self, outputs):
        """The distribution over actions that `outputs` of `evaluate` mean."""
        return policy(outputs, self.spec.action, 0.0)

    def loss(self, params, key, batch: Unroll):
        """Every step's error against its targets (Schrittwieser et al. 2020, eq. 1).

        l = Σ_k w_k [l_policy(π_k, p_k) + c l_value(z_k, v_k) + l_reward(u_k, r_k) + l_end],
        w_0 = 1, w_k = 1/K. Half of the gradient passes each step of the dynamics (appendix G).

        No `key` is needed.

        Returns:
          The scalar loss, and the error `[B]` of the first value with metrics.
        """
        steps = len(batch.action)

        def body(latent, action):
            latent = 0.5 * latent + 0.5 * jax.lax.stop_gradient(latent)
            latent = self._apply(params, Networks.dynamics, latent, action)
            return latent, latent

        root = self.represent(params, batch.observation)
        latents = root[None]
        if self.foresees:
            _, foreseen = jax.lax.scan(body, root, self._action(batch.action))
            latents = jnp.concatenate([latents, foreseen])
        outputs, value = self._apply(params, Networks.prediction, latents)
        if batch.legal is not None:
            outputs = jnp.where(batch.legal, outputs, -1e9)
        policy = self.policy(outputs)
        if batch.sampled is None:
            log_policy = jax.nn.log_softmax(outputs)
        else:
            sampled = jnp.moveaxis(batch.sampled, 2, 0)
            log_policy = jnp.moveaxis(policy.log_prob(sampled), 0, -1)
        policy_loss = -jnp.sum(batch.policy * log_policy, axis=-1)
        share = 1.0 / max(steps, 1)
        decided = batch.decided * jnp.full(steps + 1, share).at[0].set(1.0)[:, None]
        losses = {
            "policy": decided * policy_loss,
            "value": self.value_scale * decided * self.scalar.loss(value, batch.value),
        }
        if self.foresees:
            stepped = share * batch.stepped
            reward, logit = self._apply(params, Networks.outcome, foreseen)
            going_on = batch.going_on.astype(jnp.float32)
            losses |= {
                "reward": stepped * self.scalar.loss(reward, batch.reward),
                "continue": stepped * bernoulli_loss(logit, going_on),
            }
        if self.foresees and batch.legal is not None:
            logits = self._apply(params, Networks.legality, latents)
            legal = bernoulli_loss(logits, batch.legal.astype(jnp.float32))
            losses["legal"] = decided * legal.sum(axis=-1)
        losses = {name: jnp.mean(batch.weight * loss.sum(axis=0)) for name, loss in losses.items()}
        metrics = {f"loss/{name}": loss for name, loss in losses.items()}
        first = self.scalar.mean(value[0])
        metrics |= {"policy_entropy": policy.entropy().mean(), "value": first.mean()}
        error = batch.decided[0] * jnp.abs(first - batch.value[0])
        return sum(losses.values()), (error, metrics)

    def _action(self, action):
        """One-hot, or within the bounds: samples of a normal can be beyond them."""
        if isinstance(self.spec.action, Discrete):
            return jax.nn.one_hot(action, self.spec.action.num)
        return jnp.clip(action, -1.0, 1.0)

    def _apply(self, params, method, *inputs):
        return self.net.apply(params, *inputs, method=method)


class Networks(nn.Module):
    """The model's layers; every method maps `[..., features]` and is used through `apply`."""

    observation: Box | Discrete
    num_outputs: int  # of the policy
    latent: int
    layers: int
    units: int
    depth: int
    num_bins: int
    masked: bool  # whether not every action is always legal

    def setup(self):
        shape = self.observation.shape
        if is_picture(shape):
            self.encoder = PictureEncoder(self.depth, "strided")
        elif len(shape) > 1:
            self.encoder = ConvEncoder(self.depth)
        self.representation = MLP(self.layers, self.units, self.latent)
        self.transition = MLP(self.layers, self.units, self.latent)
        self.reward = MLP(1, self.units, self.num_bins, output_scale=0.0)
        self.go_on = MLP(1, self.units, 1)
        self.policy = MLP(1, self.units, self.num_outputs, output_scale=0.0)
        self.value = MLP(1, self.units, self.num_bins, output_scale=0.0)
        self.legal = MLP(1, self.units, self.num_outputs)

    def __call__(self, observation, action):
        """Touches every parameter once, for `init`."""
        latent = self.dynamics(self.represent(observation), action)
        legal = self.legality(latent) if self.masked else None
        return self.outcome(latent), self.prediction(latent), legal

    def glance(self, observation):
        """Touches what needs no dynamics, for `init`."""
        return self.prediction(self.represent(observation))

    def represent(self, observation):
        x = network_input(observation, self.observation)
        if len(self.observation.shape) > 1:
            x = self.encoder(x)
        return _unit_range(self.representation(x))

    def dynamics(self, latent, action):
        return _unit_range(self.transition(jnp.concatenate([latent, action], axis=-1)))

    def outcome(self, latent):
        """Logits of the reward's classes `[..., K]`, and of going on `[...]`."""
        return self.reward(latent), self.go_on(latent)[..., 0]

    def prediction(self, latent):
        """What parametrises the policy `[..., A]`, and logits of the value's classes `[..., K]`."""
        return self.policy(latent), self.value(latent)

    def legality(self, latent):
        """Logits `[..., A]` of each action's being legal."""
        return self.legal(latent)


def _unit_range(latent):
    """From each latent's own smallest and largest number to [0, 1] (appendix G), so that a
    latent cannot grow with the number of steps."""
    low, high = latent.min(axis=-1, keepdims=True), latent.max(axis=-1, keepdims=True)
    return (latent - low) / (high - low + 1e-5)
