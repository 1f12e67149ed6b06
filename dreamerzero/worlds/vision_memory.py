"""V and M: a picture becomes a few numbers, and a recurrent network foretells the next ones.

  V  z_t ~ N(μ, σ²)(o_t),  ô_t = decode(z_t)                     a variational autoencoder
  M  h_{t+1} = LSTM(z_t, a_t, h_t),  z_{t+1} ~ mixture(h_{t+1})   of normals, for each number

V is learnt first, from single pictures; then M, from the z's of sequences. So there are two losses,
and what a picture shows must be in z whether it matters or not: M does not tell V.

Ha & Schmidhuber 2018, "World Models", appendix A. Different from the paper: M can also foretell
rewards, without which nothing but survival can be dreamt of; and the LSTM forgets where an episode
begins, whether it is told of it (`restart`) or not.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dreamerzero.nn import distributions
from dreamerzero.nn.heads import Normal, bernoulli_loss
from dreamerzero.nn.networks import Conv, Dense, SpreadingConv, fan_in
from dreamerzero.nn.observations import unit_range
from dreamerzero.types import Box, Discrete, EnvSpec, Prediction, UsageError, static

SIDE = 64
"""Pixels along either side of a picture: what the layers of V fit."""


@struct.dataclass
class Latent:
    """What is seen, `z [B, Z]`; what is remembered of all before it, the LSTM's `cell` and `hidden`
    `[B, U]`; and whether an episode begins here, `first [B]`."""

    z: jax.Array
    cell: jax.Array
    hidden: jax.Array
    first: jax.Array


@struct.dataclass
class Code:
    """What V makes of a picture: mean and log σ² of z, `[..., Z]`."""

    mean: jax.Array
    log_var: jax.Array

    @staticmethod
    def of(numbers) -> Code:
        """The code that has these `numbers`."""
        return Code(*jnp.split(numbers, 2, axis=-1))

    @property
    def numbers(self):
        """Both in one array, `[..., 2 Z]`, as a replay keeps it."""
        return jnp.concatenate([self.mean, self.log_var], axis=-1)

    def sample(self, key):
        return self.mean + jnp.exp(0.5 * self.log_var) * jax.random.normal(key, self.mean.shape)


@struct.dataclass
class VisionMemory:
    """A `World` of 64×64 pictures, but for its loss: V and M have one each.

    With the sizes here and `latents` 32, `units` 256 it is the paper's for driving, with 64 and 512
    that for Doom. There M foretells no reward: then every step pays 1, and a return is the time
    survived. For driving it foretells no end either: then nothing ends.
    """

    spec: EnvSpec = static()
    latents: int = static(32)
    depth: int = static(32)  # channels of V's first layer; the others are multiples of it
    units: int = static(256)
    mixtures: int = static(5)
    reward: bool = static(True)  # whether M foretells it
    done: bool = static(True)
    restart: bool = static(False)  # whether M is told where an episode begins
    free_nats: float = 0.5  # for each number of z
    done_weight: float = 10.0  # of an episode's end in its loss: ends are rare
    temperature: float = 1.0  # τ, of dreams

    @property
    def vision(self) -> Vision:
        return Vision(self.latents, self.depth, self.spec.observation.shape[-1])

    @property
    def memory(self) -> MDNLSTM:
        outputs = 3 * self.mixtures * self.latents + self.reward + self.done
        return MDNLSTM(self.units, outputs)

    def check(self):
        """Raises UsageError for observations that V does not fit."""
        space = self.spec.observation
        shape, bounds = space.shape, (getattr(space, "low", None), getattr(space, "high", None))
        fits = isinstance(space, Box) and len(shape) == 3 and shape[:2] == (SIDE, SIDE)
        if not fits or np.ndim(bounds) != 1 or not np.isfinite(bounds).all():
            raise UsageError(
                f"V sees pictures of shape ({SIDE}, {SIDE}, C) with two finite bounds; "
                f"{self.spec.name} shows {space}. Choose an environment of pictures, or dreamer."
            )

    def init(self, key):
        """Params with the parts `vision` and `memory`, each with a loss of its own."""
        vision_key, memory_key = jax.random.split(key)
        latent = self.initial(1)
        action = jnp.zeros((1, *self.spec.action.shape), self.spec.action.dtype)
        picture = jnp.zeros((1, *self.spec.observation.shape))
        return {
            "vision": self.vision.init(vision_key, picture),
            "memory": self.memory.init(
                memory_key, (latent.cell, latent.hidden), self._input(latent, action)
            ),
        }

    def initial(self, batch_size: int) -> Latent:
        state = jnp.zeros((batch_size, self.units))
        return Latent(
            jnp.zeros((batch_size, self.latents)), state, state, jnp.zeros(batch_size, bool)
        )

    def observe(self, params, key, latent, action, observation, is_first) -> Latent:
        """Takes in one observation `[B, ...]`; `action` is the one that led to it."""
        z = self.encode(params, observation).sample(key)
        return self.follow(params, latent, action, z, is_first)

    def follow(self, params, latent, action, z, is_first) -> Latent:
        """What `action` led to, where `z [B, Z]` is seen."""
        state, _ = self._remember(params, latent, action)
        return self.start(z, is_first, state)

    def start(self, z, is_first, state=None) -> Latent:
        """The latent that sees `z [B, Z]`, with what was remembered in `state` unless it begins."""
        if state is None:
            cell = hidden = jnp.zeros((*z.shape[:-1], self.units))
        else:
            cell, hidden = (jnp.where(is_first[..., None], 0.0, x) for x in state)
        return Latent(z, cell, hidden, is_first)

    def step(self, params, key, action, latent) -> tuple[Prediction, Latent]:
        """Dreams one step `[B, ...]`, at the temperature τ."""
        state, outputs = self._remember(params, latent, action)
        mixture, reward, done = self._split(outputs)
        z = distributions.mixture_sample(key, mixture, self.temperature)
        reward = Normal().mean(reward) if self.reward else jnp.ones(z.shape[:-1])
        # What makes an end weigh more in its loss makes it seem more likely: by so much.
        going_on = (
            jax.nn.sigmoid(jnp.log(self.done_weight) - done[..., 0])
            if self.done
            else jnp.ones(z.shape[:-1])
        )
        latent = Latent(z, *state, jnp.zeros(z.shape[:-1], bool))
        return Prediction(reward, going_on), latent

    def encode(self, params, observation) -> Code:
        """What V makes of pictures `[B, 64, 64, C]`."""
        picture = unit_range(observation, self.spec.observation)
        return Code(*self.vision.apply(params["vision"], picture, method=Vision.encode))

    def reconstruct(self, params, latent: Latent):
        """What latents `[..., Z]` show, floats in the units of the observation."""
        z, space = latent.z, self.spec.observation
        picture = self.vision.apply(
            params["vision"], z.reshape(-1, z.shape[-1]), method=Vision.decode
        )
        picture = jax.nn.sigmoid(picture).reshape(*z.shape[:-1], *space.shape)
        return space.low + picture * (space.high - space.low)

    def vision_loss(self, params, key, observation):
        """V's loss on pictures `[B, 64, 64, C]`.

        L = Σ_pixels (ô − o)² + max(KL(N(μ, σ²) ‖ N(0, 1)), ½ Z), pixels in [0, 1]

        Returns:
          The mean over pictures, and metrics.
        """
        picture = unit_range(observation, self.spec.observation)
        code = self.encode(params, observation)
        shown = self.vision.apply(params["vision"], code.sample(key), method=Vision.decode)
        squares = jnp.square(jax.nn.sigmoid(shown) - picture)
        kl = 0.5 * jnp.sum(
            jnp.square(code.mean) + jnp.exp(code.log_var) - code.log_var - 1.0, axis=-1
        )
        losses = {
            "reconstruction": jnp.mean(jnp.sum(squares, axis=(1, 2, 3))),
            "kl": jnp.mean(jnp.maximum(kl, self.free_nats * self.latents)),
        }
        metrics = {f"loss/{name}": loss for name, loss in losses.items()}
        return sum(losses.values()), metrics | {"kl": kl.mean()}

    def memory_loss(self, params, key, batch, code: Code):
        """M's loss on sequences, with z's drawn anew from what V made of their pictures.

        L = −mean_d log mixture_d(z_{t+1}) + ½ (r̂ − r)² + w-weighted −log p(end), the mean over
        steps within an episode

        Args:
          batch: frames `[T, B, ...]`, of which the observations are not looked at.
          code: `[T, B, Z]`.
        Returns:
          A scalar, and metrics.
        """
        z = code.sample(key)
        inputs = self._input(Latent(z, None, None, batch.is_first), batch.action)[:-1]
        none = jnp.zeros((z.shape[1], self.units))

        def body(state, x):
            x, first = x
            state = tuple(jnp.where(first[:, None], 0.0, part) for part in state)
            state = self.memory.apply(params["memory"], state, x, method=MDNLSTM.advance)
            return state, state[1]

        _, hidden = jax.lax.scan(body, (none, none), (inputs, batch.is_first[:-1]))
        outputs = self.memory.apply(params["memory"], hidden, method=MDNLSTM.foretell)
        mixture, reward, done = self._split(outputs)

        after = jax.tree.map(lambda leaf: leaf[1:], (z, batch.reward, batch.is_terminal))
        within = ~batch.is_first[1:]
        density = distributions.mixture(mixture).log_prob(after[0]) / self.latents
        losses = {"latent": -density}
        if self.reward:
            losses["reward"] = Normal().loss(reward, after[1])
        if self.done:
            weight = jnp.where(after[2], self.done_weight, 1.0)
            losses["done"] = weight * bernoulli_loss(done[..., 0], after[2])
        losses = {name: jnp.mean(loss, where=within) for name, loss in losses.items()}
        return sum(losses.values()), {f"loss/{name}": loss for name, loss in losses.items()}

    def _remember(self, params, latent: Latent, action):
        """The LSTM's next `(cell, hidden)`, and what M foretells from it."""
        return self.memory.apply(
            params["memory"], (latent.cell, latent.hidden), self._input(latent, action)
        )

    def _input(self, latent: Latent, action):
        """What M reads, `[..., Z + A]` or one more."""
        if isinstance(self.spec.action, Discrete):
            action = jax.nn.one_hot(action, self.spec.action.num)
        parts = [latent.z, action]
        if self.restart:
            parts.append(latent.first[..., None].astype(jnp.float32))
        return jnp.concatenate(parts, axis=-1)

    def _split(self, outputs):
        """The mixtures `[..., Z, 3, K]`, the reward's output and the end's, `[..., 0 or 1]`."""
        size = 3 * self.mixtures * self.latents
        mixture = outputs[..., :size].reshape(*outputs.shape[:-1], self.latents, 3, self.mixtures)
        reward, done = jnp.split(outputs[..., size:], [int(self.reward)], axis=-1)
        return mixture, reward, done


class Vision(nn.Module):
    """V, between pictures `[B, 64, 64, channels]` in [0, 1] and z `[B, latents]`."""

    latents: int
    depth: int
    channels: int

    def setup(self):
        depths = [self.depth * n for n in (1, 2, 4, 8)]
        self.convs = [Conv(depth, 4, 2, "VALID") for depth in depths]
        self.mean = Dense(self.latents)
        self.log_var = Dense(self.latents)
        self.input = Dense(32 * self.depth)
        sizes = zip((*depths[2::-1], self.channels), (5, 5, 6, 6))
        self.spreads = [SpreadingConv(depth, size) for depth, size in sizes]

    def __call__(self, picture):
        """Touches every parameter once, for `init`."""
        return self.decode(self.encode(picture)[0])

    def encode(self, picture):
        """Mean and log σ² of z, `[B, latents]` each."""
        x = picture
        for conv in self.convs:
            x = nn.relu(conv(x))
        x = x.reshape(len(x), -1)
        return self.mean(x).astype(jnp.float32), self.log_var(x).astype(jnp.float32)

    def decode(self, z):
        """Logits of the pixels."""
        x = self.input(z)[:, None, None]
        for spread in self.spreads[:-1]:
            x = nn.relu(spread(x))
        return self.spreads[-1](x).astype(jnp.float32)


class MDNLSTM(nn.Module):
    """M: an LSTM, and a linear layer that says what comes, in float32."""

    units: int
    outputs: int

    def setup(self):
        self.lstm = nn.OptimizedLSTMCell(self.units, recurrent_kernel_init=fan_in())
        self.out = nn.Dense(self.outputs)

    def __call__(self, state, x):
        """One step: the next `(cell, hidden)`, `[..., units]` each, and what is foretold there."""
        state = self.advance(state, x)
        return state, self.foretell(state[1])

    def advance(self, state, x):
        return self.lstm(state, x)[0]

    def foretell(self, hidden):
        return self.out(hidden)
