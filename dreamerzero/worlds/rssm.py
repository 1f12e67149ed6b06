"""The recurrent state-space model: a latent that remembers, and a guess at what it will see.

    h_t = core(h_{t−1}, z_{t−1}, a_{t−1})      deterministic memory, a block-diagonal GRU
    z_t ~ posterior(h_t, tokens(x_t))          with the observation: filtering
    z_t ~ prior(h_t)                           without it: imagination
    x̂_t, r̂_t, ĉ_t = heads(h_t, z_t)            observation, reward, whether the episode goes on

Hafner et al. 2019 (PlaNet), 2023 (DreamerV3).
"""

from __future__ import annotations

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero import ops
from dreamerzero.nn.heads import Normal, TwoHot, bernoulli_loss, scalar
from dreamerzero.nn.networks import (
    MLP,
    BlockDense,
    ConvEncoder,
    Dense,
    NormAct,
    PictureDecoder,
    PictureEncoder,
    SplitDense,
)
from dreamerzero.nn.observations import is_picture, network_input, unit_range
from dreamerzero.types import Box, Discrete, EnvSpec, Prediction, static
from dreamerzero.worlds.stochastic import Categorical, Gaussian

ACTS = {"block_gru": "norm_silu", "gru": "elu"}
"""Recurrences, and the activation of the networks around each."""


@struct.dataclass
class Latent:
    """Memory `deter [B, D]`, and the sample `stoch`: classes `[B, S, C]` or numbers `[B, S]`."""

    deter: jax.Array
    stoch: jax.Array

    @property
    def features(self) -> jax.Array:
        """What every head reads, `[B, D + S·C]` or `[B, D + S]`."""
        return jnp.concatenate([self.deter, self.flat_stoch], axis=-1)

    @property
    def flat_stoch(self) -> jax.Array:
        return self.stoch.reshape(*self.deter.shape[:-1], -1)


@struct.dataclass
class RSSM:
    """A `World`. `horizon` is 1 / (1 − γ): the continue head predicts γ · P(going on)."""

    spec: EnvSpec = static()
    deter: int = static()
    hidden: int = static()
    stoch: int = static()
    units: int = static()
    depth: int = static()
    classes: int = static(0)  # of a categorical latent
    blocks: int = static(1)  # of a block GRU
    bins: int = static(1)  # of the reward; a single one is the mean of a normal
    bin_limit: float = static(0.0)
    latent: str = static("categorical")  # or gaussian
    recurrence: str = static("block_gru")  # or gru, with ELU and, but for grids, no other norms
    conv: str = static("pool")  # or strided: how the sides of pictures are halved and doubled
    free_each: bool = static(True)  # free nats for every state, not for the mean of all
    unimix: float = 0.01
    free_nats: float = 1.0
    dyn_scale: float = 1.0
    rep_scale: float = 0.1
    horizon: float = 333.0

    @property
    def stochastic(self) -> Categorical | Gaussian:
        if self.latent == "gaussian":
            return Gaussian(self.stoch)
        return Categorical(self.stoch, self.classes, self.unimix)

    @property
    def reward(self) -> TwoHot | Normal:
        return scalar(self.bins, self.bin_limit)

    @property
    def act(self) -> str:
        """The activation that goes with the recurrence, see `nn.networks.NormAct`."""
        return ACTS[self.recurrence]

    @property
    def net(self) -> Networks:
        return Networks(
            self.spec.observation,
            self.deter,
            self.hidden,
            self.stochastic.num_outputs,
            self.blocks,
            self.units,
            self.depth,
            self.bins,
            self.recurrence,
            self.conv,
        )

    def init(self, key):
        latent = self.initial(1)
        action = jnp.zeros((1, *self.spec.action.shape), self.spec.action.dtype)
        observation = jnp.zeros((1, *self.spec.observation.shape), self.spec.observation.dtype)
        return self.net.init(key, latent, self._action(action), observation)

    def initial(self, batch_size: int) -> Latent:
        return Latent(
            jnp.zeros((batch_size, self.deter)),
            jnp.zeros((batch_size, *self.stochastic.shape)),
        )

    def observe(self, params, key, latent, action, observation, is_first) -> Latent:
        """Filters in one observation `[B, ...]`; `action` is the one that led to it."""
        tokens = self._apply(params, Networks.tokens, observation)
        noise = self.stochastic.noise(key, is_first.shape)
        return self._filter(params, latent, self._action(action), tokens, is_first, noise)[0]

    def step(self, params, key, action, latent) -> tuple[Prediction, Latent]:
        """Imagines one step `[B, ...]`: one that may come, or without a key the likeliest one."""
        deter = self._apply(params, Networks.core, latent, self._action(action))
        prior = self.stochastic.distribution(self._apply(params, Networks.prior, deter))
        noise = self.stochastic.noise(key, deter.shape[:-1])
        latent = Latent(deter, self.stochastic.sample(prior, noise))
        return self.predict(params, latent), latent

    def predict(self, params, latent) -> Prediction:
        """Reward of arriving in `latent`, and the discount of what comes after it."""
        reward, logit = self._apply(params, Networks.outcome, latent.features)
        return Prediction(self.reward.mean(reward), jax.nn.sigmoid(logit))

    def reconstruct(self, params, latent):
        """What a latent shows: floats in the units and the shape of the observation it was filtered
        from, or the probabilities `[..., num]` of an integer."""
        spec, output = self.spec.observation, self._apply(params, Networks.decode, latent.features)
        if isinstance(spec, Discrete):
            return jax.nn.softmax(output)
        if len(spec.shape) == 1:
            return ops.symexp(output)
        image = jax.nn.sigmoid(output).reshape(*latent.deter.shape[:-1], *spec.shape)
        return spec.low + image * (spec.high - spec.low)

    def pack(self, latent):
        """`latent` in half the bytes or less, to be stored with every frame of a replay."""
        return Latent(latent.deter.astype(jnp.bfloat16), self.stochastic.pack(latent.stoch))

    def unpack(self, packed) -> Latent:
        """What `pack` has packed, but for rounding."""
        return Latent(packed.deter.astype(jnp.float32), self.stochastic.unpack(packed.stoch))

    def loss(self, params, key, batch, latent, action):
        """The loss of explaining real sequences (Hafner et al. 2019, eq. 3; 2023, eq. 3).

        Args:
          batch: frames `[T, B, ...]`.
          latent, action: what the frame before them left, `[B, ...]`.
        Returns:
          The scalar loss, and the filtered latents `[T, B, ...]` with metrics.
        """
        tokens = self._apply(params, Networks.tokens, batch.observation)  # for all times at once
        previous = self._action(jnp.concatenate([action[None], batch.action[:-1]]))
        noise = self.stochastic.noise(key, batch.is_first.shape)

        def body(latent, inputs):
            latent, posterior = self._filter(params, latent, *inputs)
            return latent, (latent, posterior)

        _, (latents, posterior) = jax.lax.scan(
            body, latent, (previous, tokens, batch.is_first, noise)
        )
        prior = self.stochastic.distribution(self._apply(params, Networks.prior, latents.deter))
        dyn, rep = ops.balanced_kl(self.stochastic.kl, posterior, prior)

        features = latents.features
        reward, go_on = self._apply(params, Networks.outcome, features)
        reconstruction = self._apply(params, Networks.decode, features)
        going_on = (1.0 - batch.is_terminal) * (1.0 - 1.0 / self.horizon)
        losses = {
            "reconstruction": _reconstruction_loss(
                reconstruction, batch.observation, self.spec.observation
            ),
            "reward": self.reward.loss(reward, batch.reward),
            "continue": bernoulli_loss(go_on, going_on),
            "dynamics": self.dyn_scale * self._beyond_free(dyn),
            "representation": self.rep_scale * self._beyond_free(rep),
        }
        losses = {name: loss.mean() for name, loss in losses.items()}
        metrics = {f"loss/{name}": loss for name, loss in losses.items()}
        metrics |= {
            "kl": dyn.mean(),
            "prior_entropy": self.stochastic.entropy(prior).mean(),
            "posterior_entropy": self.stochastic.entropy(posterior).mean(),
        }
        return sum(losses.values()), (latents, metrics)

    def _filter(self, params, latent, action, tokens, is_first, noise):
        keep = 1.0 - is_first
        latent, action = jax.tree.map(
            lambda x: x * keep.reshape(-1, *[1] * (x.ndim - 1)), (latent, action)
        )
        deter = self._apply(params, Networks.core, latent, action)
        outputs = self._apply(params, Networks.posterior, deter, tokens)
        posterior = self.stochastic.distribution(outputs)
        return Latent(deter, self.stochastic.sample(posterior, noise)), posterior

    def _beyond_free(self, kl):
        """KL under the free nats is constant: nothing is pushed below them."""
        return jnp.maximum(kl if self.free_each else kl.mean(), self.free_nats)

    def _action(self, action):
        """One-hot, or no longer than 1 in any coordinate: samples of a normal can be."""
        if isinstance(self.spec.action, Discrete):
            if jnp.issubdtype(action.dtype, jnp.floating):
                return action  # one-hot already, so that gradients can pass through it
            return jax.nn.one_hot(action, self.spec.action.num)
        return action / jnp.maximum(1.0, jnp.abs(action))

    def _apply(self, params, method, *inputs):
        return self.net.apply(params, *inputs, method=method)


class Networks(nn.Module):
    """The RSSM's layers; every method maps `[..., features]` and is used through `apply`."""

    observation: Box | Discrete
    deter: int
    hidden: int
    num_stats: int  # that describe a distribution over the stochastic part
    blocks: int
    units: int
    depth: int
    bins: int
    recurrence: str
    conv: str

    def setup(self):
        plain = self.recurrence == "gru"
        act = ACTS[self.recurrence]
        mlp = partial(MLP, act=act)
        shape = self.observation.shape
        if is_picture(shape):
            self.encoder = PictureEncoder(self.depth, self.conv, act)
            num_tokens = PictureEncoder.num_outputs(shape, self.depth)
        elif len(shape) > 1:
            # With its norm whatever `act` is: with ELU instead, v2 needs more steps on Catch.
            self.encoder = ConvEncoder(self.depth)
            num_tokens = ConvEncoder.num_outputs(shape, self.depth)
        else:
            self.encoder = mlp(3, self.units)
            num_tokens = self.units
        if plain:
            self.input = mlp(1, self.hidden)
            self.gates = Dense(3 * self.deter)
            self.gate_norm = nn.LayerNorm(dtype=jnp.float32)
        else:
            self.inputs = [Dense(self.hidden) for _ in range(3)]
            self.input_norms = [NormAct() for _ in range(3)]
            self.core_hidden = BlockDense(self.deter)
            self.core_norm = NormAct(axes=(0, 2))
            self.gates = BlockDense(3 * self.deter)
        self.prior_out = mlp(1 if plain else 2, self.hidden, self.num_stats)
        self.posterior_in = SplitDense((self.deter, num_tokens), self.hidden)
        self.posterior_act = NormAct(act)
        self.posterior_out = Dense(self.num_stats)
        if is_picture(shape):
            blocks = 1 if plain else self.blocks
            self.decoder = PictureDecoder(shape, self.depth, self.units, blocks, self.conv, act)
        else:
            self.decoder = mlp(3, self.units, _num_targets(self.observation))
        self.reward = mlp(1, self.units, self.bins, output_scale=0.0)
        self.go_on = mlp(1, self.units, 1)

    def __call__(self, latent, action, observation):
        """Touches every parameter once, for `init`."""
        deter = self.core(latent, action)
        features = Latent(deter, latent.stoch).features
        stats = self.prior(deter), self.posterior(deter, self.tokens(observation))
        return stats, self.decode(features), self.outcome(features)

    def tokens(self, observation):
        """The observation's whole share of the posterior: none of it needs the recurrence."""
        return self.posterior_in(1, self.encoder(network_input(observation, self.observation)))

    def core(self, latent, action):
        """h_t from the last latent `[B, ...]` and the action that followed it."""
        core = self._gru if self.recurrence == "gru" else self._block_gru
        return core(latent, action)

    def _gru(self, latent, action):
        """A GRU with one normalised linear layer (Hafner et al. 2021)."""
        inputs = self.input(jnp.concatenate([latent.flat_stoch, action], axis=-1))
        gates = self.gates(jnp.concatenate([inputs, latent.deter], axis=-1))
        return _gated(self.gate_norm(gates), latent.deter)

    def _block_gru(self, latent, action):
        """A GRU in blocks that share their inputs, over a hidden layer (Hafner et al. 2023)."""
        inputs = zip(
            self.inputs, self.input_norms, (latent.deter, latent.flat_stoch, action), strict=True
        )
        shared = jnp.concatenate([norm(dense(x)) for dense, norm, x in inputs], axis=-1)
        batch = latent.deter.shape[0]
        blocks = latent.deter.reshape(batch, self.blocks, -1).transpose(1, 0, 2)
        hidden = self.core_norm(self.core_hidden(blocks, shared))
        blocks = _gated(self.gates(hidden).astype(jnp.float32), blocks)
        return blocks.transpose(1, 0, 2).reshape(batch, self.deter)

    def prior(self, deter):
        return self.prior_out(deter)

    def posterior(self, deter, tokens):
        hidden = self.posterior_act(self.posterior_in(0, deter) + tokens)
        return self.posterior_out(hidden).astype(jnp.float32)

    def decode(self, features):
        """What parametrises the observation, flat: `[..., N]` of its N elements or values."""
        if is_picture(self.observation.shape):
            return self.decoder(*jnp.split(features, [self.deter], axis=-1))
        return self.decoder(features)

    def outcome(self, features):
        """Logits of the reward's bins `[..., K]`, and of going on `[...]`."""
        return self.reward(features), self.go_on(features)[..., 0]


def _gated(gates, deter):
    """The GRU's update of `deter [..., D]` from its gates `[..., 3D]`."""
    reset, candidate, update = jnp.split(gates, 3, axis=-1)
    candidate = jnp.tanh(jax.nn.sigmoid(reset) * candidate)
    update = jax.nn.sigmoid(update - 1.0)  # slow to forget from the start
    return update * candidate + (1.0 - update) * deter


def _num_targets(spec: Box | Discrete) -> int:
    return spec.num if isinstance(spec, Discrete) else math.prod(spec.shape)


def _reconstruction_loss(output, observation, spec: Box | Discrete):
    """Summed over the observation's elements: `[...]`."""
    if isinstance(spec, Discrete):
        target = jax.nn.one_hot(observation, spec.num)
        return -jnp.sum(target * jax.nn.log_softmax(output), axis=-1)
    if len(spec.shape) == 1:
        target = ops.symlog(observation.astype(jnp.float32))
    else:
        output = jax.nn.sigmoid(output)
        target = unit_range(observation, spec).reshape(output.shape)
    return jnp.sum(jnp.square(output - target), axis=-1)
