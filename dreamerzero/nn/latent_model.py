"""The layers of a latent model of rewards, values and policies; `worlds.value_equivalent` says what
they are for, `worlds.chance` what those of chance are."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamerzero.nn.networks import (
    MLP,
    ConvEncoder,
    Dense,
    LineEncoder,
    PictureEncoder,
    coarse,
    fan_in,
)
from dreamerzero.nn.observations import is_picture, network_input
from dreamerzero.nn.residual import GridHead, ResNet
from dreamerzero.types import Box, Discrete


class Networks(nn.Module):
    """The model's layers; every method maps `[..., features]` and is used through `apply`.

    The body is an MLP; or a resnet, whose states are grids like the observations. There an action
    is a picture, learnt, that is laid over the state: it can show a place, a column, or how all of
    them are concerned.
    """

    observation: Box | Discrete
    num_outputs: int  # of the policy
    latent: int
    layers: int
    units: int
    depth: int
    num_bins: int
    masked: bool  # whether not every action is always legal
    recurrent: bool = False  # for the value prefix
    projects: bool = False  # for the consistency
    body: str = "mlp"
    encoding: str = "conv"  # of small grids, and layers of a resnet; or lines
    shows: bool = False  # whether a state can say what grid is seen there

    @property
    def state(self) -> tuple[int, ...]:
        """The shape of a state."""
        if self.body == "mlp":
            return (self.latent,)
        shape = self.observation.shape
        return (*(coarse(shape) if is_picture(shape) else shape[:2]), self.depth)

    def setup(self):
        self.encoder = self._encoder()
        if self.body == "mlp":
            self.representation = MLP(self.layers, self.units, self.latent)
        else:
            self.representation = ResNet(self.layers, self.depth, self.encoding)
        self.picture = self._picture()
        self.transition = self._transition()
        # What the LSTM has seen is no grid.
        self.reward = MLP(1, self.units, self.num_bins, 0.0) if self.recurrent else self._classes()
        self.go_on = self._head(1)
        self.policy = self._head(self.num_outputs, output_scale=0.0)
        self.value = self._classes()
        if self.masked:
            self.legal = self._head(self.num_outputs)
        if self.recurrent:
            self.lstm = nn.OptimizedLSTMCell(self.latent, recurrent_kernel_init=fan_in())
        if self.projects:
            self.projector = MLP(2, self.units, self.units)
            self.predictor = MLP(1, max(1, self.units // 2), self.units)
        if self.shows:
            shape = self.observation.shape  # of a resnet each place shows what is there
            self.decoder = MLP(2, self.units, math.prod(shape if self.body == "mlp" else shape[2:]))

    def _encoder(self):
        """Of observations, to flat tokens."""
        shape = self.observation.shape
        if is_picture(shape):
            return PictureEncoder(self.depth, "strided")
        if len(shape) < 2:
            return lambda x: x
        return LineEncoder(self.depth) if self.encoding == "lines" else ConvEncoder(self.depth)

    def _transition(self):
        """What brings a state on."""
        if self.body == "mlp":
            return MLP(self.layers, self.units, self.latent)
        return ResNet(self.layers, self.depth, self.encoding, stem=False)

    def _picture(self):
        """What a cause of change looks like, where states are grids; else it is not used."""
        return Dense(math.prod(self.state))

    def _head(self, outputs: int, output_scale=1.0):
        if self.body == "mlp":
            return MLP(1, self.units, outputs, output_scale)
        return GridHead(self.units, outputs, output_scale)

    def _classes(self):
        """The head of a scalar."""
        return self._head(self.num_bins, output_scale=0.0)

    def __call__(self, observation, action):
        """Touches every parameter once, for `init`."""
        latent = self.dynamics(self.represent(observation), action)
        memory = 2 * (jnp.zeros((len(latent), self.latent)),)
        seen = self.remember(memory, latent)[1] if self.recurrent else None
        rest = self._rest(latent)
        return self.outcome(latent, seen), self.prediction(latent), rest

    def _rest(self, latent):
        """Touches what not every model has, for `init`."""
        projected = self.guess(latent, jnp.ones(len(latent))) if self.projects else None
        legal = self.legality(latent) if self.masked else None
        return projected, legal, self.show(latent) if self.shows else None

    def glance(self, observation):
        """Touches what needs no dynamics, for `init`."""
        return self.prediction(self.represent(observation))

    def represent(self, observation):
        x, shape = network_input(observation, self.observation), self.observation.shape
        if self.body == "mlp":
            x = self.encoder(x)
        elif is_picture(shape):
            x = self.encoder(x).reshape(*x.shape[:-3], *coarse(shape), -1)
        return self._scaled(self.representation(x))

    def dynamics(self, latent, action):
        return self._next(self.transition, self.picture, latent, action)

    def _next(self, transition, picture, latent, cause):
        """The state `[..., *state]` after `latent`, by an action or an outcome `[..., N]`."""
        if self.body == "mlp":
            x = jnp.concatenate([latent, cause], axis=-1)
        else:
            x = latent + picture(cause).reshape(latent.shape)
        return self._scaled(transition(x))

    def _scaled(self, state):
        """`state` in a range of its own, so that it cannot grow with the number of steps."""
        return _unit_range(state) if self.body == "mlp" else _unit_size(state)

    def remember(self, memory, latent):
        """The LSTM's next memory, and what it has seen by then `[..., latent]`."""
        return self.lstm(memory, self._flat(latent))

    def outcome(self, latent, seen=None):
        """Logits of the classes `[..., K]` of the reward; or of the value prefix, or of the reward,
        of what was `seen` on the way; and of going on `[...]`."""
        return self.reward(latent if seen is None else seen), self.go_on(latent)[..., 0]

    def prediction(self, latent):
        """What parametrises the policy `[..., A]`, and logits of the value's classes `[..., K]`."""
        return self.policy(latent), self.value(latent)

    def legality(self, latent):
        """Logits `[..., A]` of each action's being legal."""
        return self.legal(latent)

    def show(self, latent):
        """Logits `[..., N]` of the N numbers of the grid that is seen there, flat."""
        return self._flat(self.decoder(latent))

    def project(self, latent, real):
        """p: what the consistency compares, `[..., units]`, in units of its spread over those that
        are `real [...]`, 1 or 0: else one direction for all latents would do."""
        x = self.projector(self._flat(latent))
        share = (real / jnp.maximum(real.sum(), 1.0))[..., None]
        batch = tuple(range(real.ndim))
        mean = jnp.sum(share * x, axis=batch)
        variance = jnp.sum(share * jnp.square(x - mean), axis=batch)
        return (x - mean) * jax.lax.rsqrt(variance + 1e-5)

    def guess(self, latent, real):
        """q ∘ p: an imagined latent's guess of the projection of a seen one."""
        return self.predictor(self.project(latent, real))

    def _flat(self, latent):
        return latent.reshape(*latent.shape[: -len(self.state)], -1)


class ChanceNetworks(Networks):
    """The layers of `Networks`, with those for chance; `dynamics` leads to an afterstate here."""

    codes: int = 32

    def setup(self):
        super().setup()
        self.happening = self._transition()
        self.happening_picture = self._picture()
        self.afterstate_value = self._classes()
        self.chances = self._head(self.codes, output_scale=0.0)
        self.coder = MLP(self.layers, self.units, self.codes)
        self.change_encoder = self._encoder()

    def __call__(self, observation, action):
        """Touches every parameter once, for `init`."""
        afterstate = self.dynamics(self.represent(observation), action)
        latent = self.happen(afterstate, self.code(observation, observation))
        foretold, rest = self.foretell(afterstate), self._rest(latent)
        return foretold, self.outcome(latent, afterstate), self.prediction(latent), rest

    def foretell(self, afterstate):
        """Logits of what may happen `[..., C]`, and of the value's classes `[..., K]`."""
        return self.chances(afterstate), self.afterstate_value(afterstate)

    def happen(self, afterstate, code):
        """The state after outcomes `[..., C]`, one-hot."""
        return self._next(self.happening, self.happening_picture, afterstate, code)

    def code(self, before, after):
        """Logits `[..., C]` of what happened between two observations."""
        pair = [network_input(seen, self.observation) for seen in (before, after)]
        return self.coder(self.change_encoder(jnp.concatenate(pair, axis=-1)))


def _unit_range(state):
    """From each vector's own smallest and largest number to [0, 1] (appendix G)."""
    low, high = state.min(axis=-1, keepdims=True), state.max(axis=-1, keepdims=True)
    return (state - low) / (high - low + 1e-5)


def _unit_size(state):
    """Each grid `[..., H, W, C]` with a mean square of 1.

    Not in [0, 1]: beside what a block adds to it a state so small is lost, and a model of 2048
    takes up to twice the updates to learn what a move does to the board.
    """
    square = jnp.square(state).mean(axis=(-3, -2, -1), keepdims=True)
    return state * jax.lax.rsqrt(square + 1e-5)
