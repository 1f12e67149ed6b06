"""A latent model of rewards, values and policies alone: what a search needs, and no pictures.

    s_0 = h(o_0)                        representation
    s_k = g(s_{k−1}, a_{k−1})           dynamics
    r_k, c_k = outcome(s_k)             reward of arriving there, whether the episode goes on
    p_k, v_k = f(s_k)                   prediction, for the search

Nothing asks of s that it shows the observation: s_k must only foretell what s = h(o_k) would
(Schrittwieser et al. 2020). Different from the paper: the model knows that episodes end, so that no
search looks for rewards behind the end; it knows which moves of a game are legal, so that none
looks for them among others; and reward and policy are read from the new state alone.

Three things make it learn from less (Ye et al. 2021, "Mastering Atari Games with Limited Data"),
each of them off by default:

    consistency   −cos(q(p(s_k)), p(h(o_k))), no gradient through the second   (SimSiam, §4.1)
    prefix        R_k = r_1 + … + r_k, read from what an LSTM has seen of s_1 … s_k    (§4.2)
    augment       o_k as it might also look: o_0, and what the consistency compares with

Rewards are the differences R_k − R_{k−1}; every `prefix` steps, in the loss as in a search, sum and
LSTM begin anew. Then a latent is not s_k alone but a `Latent`. Different from the paper: p and q
have layers of `units`, where it has 1024 and in q's hidden layer 512, and the LSTM is as large as s
where it has 512; over the batch only p's output is normalised, not every layer.

And one that tells more of the world than a search would ask (Anand et al. 2022, "Procedural
Generalization by Planning with Self-Supervised World Models"), off by default:

    reconstruction   ô_k = decode(s_k), the grid that was seen after the k-th action
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dreamerzero.nn.distributions import num_outputs, policy
from dreamerzero.nn.heads import Support, bernoulli_loss
from dreamerzero.nn.latent_model import Networks
from dreamerzero.nn.observations import augmented, network_input
from dreamerzero.types import Discrete, EnvSpec, Prediction, static


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
    following: jax.Array | None = None  # [K, B, ...]: what was seen after each action


@struct.dataclass
class Latent:
    """A state with the value prefix of the steps that led there; leaves `[..., ]`."""

    state: jax.Array  # [..., latent]
    memory: Any  # of the LSTM
    prefix: jax.Array  # the rewards of the steps since the last reset
    steps: jax.Array  # how many these are


@struct.dataclass
class ValueEquivalent:
    """A `World` whose latents are vectors `[B, latent]` in [0, 1], grids `[B, H, W, depth]` with a
    mean square of 1 if its `body` is a resnet; or with `prefix` `Latent`s.

    With two players rewards and values are those of who is to move, and discounts are negative.
    """

    spec: EnvSpec = static()
    latent: int = static()
    layers: int = static()
    units: int = static()
    depth: int = static()  # channels of the image encoder, or of a grid
    support: int = static()  # h of the largest reward or value
    body: str = static("mlp")  # or resnet
    encoder: str = static("conv")  # of small grids, and a resnet's layers; or lines
    discount: float = 0.997
    value_scale: float = 0.25
    reward_scale: float = 1.0
    consistency: float = static(0.0)  # its weight; 0 builds no projector
    reconstruction: float = static(0.0)  # its weight; 0 builds no decoder
    prefix: int = static(0)  # steps between two resets; 0 reads every reward by itself
    augment: bool = static(False)
    foresees: bool = static(True)  # or knows no more than policy and value of what is observed

    @property
    def scalar(self) -> Support:
        return Support(self.support)

    @property
    def net(self) -> Networks:
        return Networks(*self._sizes)

    @property
    def _sizes(self) -> tuple:
        return (
            self.spec.observation,
            num_outputs(self.spec.action),
            self.latent,
            self.layers,
            self.units,
            self.depth,
            self.scalar.num,
            self.spec.masked,
            bool(self.prefix),
            bool(self.consistency),
            self.body,
            self.encoder,
            bool(self.reconstruction),
        )

    def init(self, key):
        action = jnp.zeros((1, *self.spec.action.shape), self.spec.action.dtype)
        observation = jnp.zeros((1, *self.spec.observation.shape), self.spec.observation.dtype)
        if not self.foresees:
            return self.net.init(key, observation, method=Networks.glance)
        return self.net.init(key, observation, self._action(action))

    def initial(self, batch_size: int):
        return self._root(jnp.zeros((batch_size, *self.net.state)))

    def observe(self, params, key, latent, action, observation, is_first):
        """The latent of one observation `[B, ...]`, whatever came before."""
        return self.represent(params, observation)

    def represent(self, params, observation):
        """h: observations `[..., *shape]` to latents `[..., latent]`."""
        return self._root(self._apply(params, Networks.represent, observation))

    def step(self, params, key, action, latent) -> tuple[Prediction, Any]:
        """Imagines one step `[B, ...]`; there is no chance in it, and `key` is not used."""
        state = self._apply(params, Networks.dynamics, self._state(latent), self._action(action))
        if not self.prefix:
            return self._outcome(params, state), state
        memory, seen = self._apply(params, Networks.remember, latent.memory, state)
        prediction = self._outcome(params, state, seen)
        prefix, steps = prediction.reward, latent.steps + 1
        after = jax.tree.map(
            partial(_where, steps == self.prefix),
            self._root(state),
            Latent(state, memory, prefix, steps),
        )
        return prediction.replace(reward=prefix - latent.prefix), after

    def _outcome(self, params, state, seen=None) -> Prediction:
        """Reward (or its prefix) and discount of arriving in states `[B, latent]`."""
        outputs, logit = self._apply(params, Networks.outcome, state, seen)
        going_on = self.spec.sign * self.discount * jax.nn.sigmoid(logit)
        return Prediction(self.scalar.mean(outputs), going_on)

    def evaluate(self, params, latent):
        """f: what parametrises the policy, `[..., A]` logits if actions are discrete, and the value
        `[...]` of latents `[..., latent]`. In games a logit has that of the move's being legal."""
        state = self._state(latent)
        outputs, value = self._apply(params, Networks.prediction, state)
        if self.spec.masked and self.foresees:
            outputs += jax.nn.log_sigmoid(self._apply(params, Networks.legality, state))
        return outputs, self.scalar.mean(value)

    def policy(self, outputs):
        """The distribution over actions that `outputs` of `evaluate` mean."""
        return policy(outputs, self.spec.action, 0.0)

    def loss(self, params, key, batch: Unroll):
        """Every step's error against its targets (Schrittwieser et al. 2020, eq. 1).

        l = Σ_k w_k [l_policy(π_k, p_k) + c l_value(z_k, v_k) + d l_reward(u_k, r_k) + l_end],
        w_0 = 1, w_k = 1/K, and d = 1 as published. Half of the gradient passes each step of the
        dynamics (appendix G). With `prefix` u_k and r_k are sums of rewards since the last reset;
        `consistency` and `reconstruction` add their own.

        No `key` is needed, except to augment.

        Returns:
          The scalar loss, and the error `[B]` of the first value with metrics.
        """
        steps, following = len(batch.action), batch.following  # as it was seen, not augmented
        if self.augment:
            batch = self._augmented(key, batch)
        root = self._apply(params, Networks.represent, batch.observation)
        latents = root[None]
        if self.foresees:
            foreseen, seen, foretold = self._foresee(params, root, batch)
            latents = jnp.concatenate([latents, foreseen])
        outputs, value = self._apply(params, Networks.prediction, latents)
        if batch.legal is not None:
            if self.foresees:
                legality = self._apply(params, Networks.legality, latents)
                # As `evaluate` has it: a policy taught without would doubt doubtful moves twice.
                outputs += jax.nn.log_sigmoid(jax.lax.stop_gradient(legality))
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
            rewards = prefixes(batch.reward, self.prefix) if self.prefix else batch.reward
            reward, logit = self._apply(params, Networks.outcome, foreseen, seen)
            going_on = batch.going_on.astype(jnp.float32)
            losses |= {
                "reward": self.reward_scale * stepped * self.scalar.loss(reward, rewards),
                "continue": stepped * bernoulli_loss(logit, going_on),
            }
            losses |= {name: stepped * loss for name, loss in foretold.items()}
            if batch.legal is not None:
                legal = bernoulli_loss(legality, batch.legal.astype(jnp.float32))
                losses["legal"] = decided * legal.sum(axis=-1)
            if self.consistency:
                target = self._apply(params, Networks.represent, batch.following)
                distance = self._inconsistency(params, foreseen, target, batch.stepped)
                losses["consistency"] = self.consistency * stepped * distance
            if self.reconstruction:
                shown = self._apply(params, Networks.show, foreseen)
                target = network_input(following, self.spec.observation).reshape(shown.shape)
                distance = bernoulli_loss(shown, target).sum(axis=-1)
                losses["reconstruction"] = self.reconstruction * stepped * distance
        losses = {name: jnp.mean(batch.weight * loss.sum(axis=0)) for name, loss in losses.items()}
        metrics = {f"loss/{name}": loss for name, loss in losses.items()}
        first = self.scalar.mean(value[0])
        metrics |= {"policy_entropy": policy.entropy().mean(), "value": first.mean()}
        error = batch.decided[0] * jnp.abs(first - batch.value[0])
        return sum(losses.values()), (error, metrics)

    def _foresee(self, params, root, batch: Unroll):
        """The states `[K, B, latent]` to which the batch's actions lead; what rewards are read
        from, if not from these; and what else there is to lose on the way, `[K, B]` by name."""

        def body(state, action):
            state = self._apply(params, Networks.dynamics, halved(state), action)
            return state, state

        states = jax.lax.scan(body, root, self._action(batch.action))[1]
        return states, self._remember(params, states) if self.prefix else None, {}

    def _root(self, state):
        """The latent in which nothing was rewarded yet."""
        if not self.prefix:
            return state
        batch = state.shape[: -len(self.net.state)]
        memory = (jnp.zeros((*batch, self.latent)), jnp.zeros((*batch, self.latent)))
        return Latent(state, memory, jnp.zeros(batch), jnp.zeros(batch, jnp.int32))

    def _state(self, latent):
        return latent.state if self.prefix else latent

    def _remember(self, params, states):
        """What the LSTM has seen by each of `states [K, B, latent]`, with its resets."""

        def body(memory, inputs):
            state, reset = inputs
            memory = jax.tree.map(lambda leaf: jnp.where(reset, 0.0, leaf), memory)
            return self._apply(params, Networks.remember, memory, state)

        resets = jnp.arange(len(states)) % self.prefix == 0
        return jax.lax.scan(body, self._root(states[0]).memory, (states, resets))[1]

    def _inconsistency(self, params, imagined, seen, real):
        """−cos `[...]` of latents `[..., latent]` with those of what was seen, which get no
        gradient; only the `real` ones count."""
        target = jax.lax.stop_gradient(self._apply(params, Networks.project, seen, real))
        guess = self._apply(params, Networks.guess, imagined, real)
        return -optax.cosine_similarity(guess, target, epsilon=1e-6)

    def _augmented(self, key, batch: Unroll) -> Unroll:
        """`batch` with every picture or grid in it changed by itself; vectors stay."""
        space = self.spec.observation
        if len(space.shape) < 2 or self.spec.masked:  # a board that is shifted is another one
            return batch

        def change(key, seen):
            images = seen.reshape(-1, *space.shape)
            keys = jax.random.split(key, len(images))
            return jax.vmap(partial(augmented, spec=space))(keys, images).reshape(seen.shape)

        first, later = jax.random.split(key)
        return batch.replace(
            observation=change(first, batch.observation), following=change(later, batch.following)
        )

    def _action(self, action):
        """One-hot, or within the bounds: samples of a normal can be beyond them."""
        if isinstance(self.spec.action, Discrete):
            return jax.nn.one_hot(action, self.spec.action.num)
        return jnp.clip(action, -1.0, 1.0)

    def _apply(self, params, method, *inputs):
        return self.net.apply(params, *inputs, method=method)


def prefixes(reward, reset: int):
    """Sums of rewards `[K, ...]` from the last reset on; there is one every `reset` steps."""
    total = jnp.cumsum(reward, axis=0)
    start = jnp.arange(len(reward)) // reset * reset
    return total - (total - reward)[start]


def _where(condition, x, y):
    """`x` or `y`, `[B, ...]`, by a condition `[B]`."""
    return jnp.where(condition.reshape(-1, *(1,) * (x.ndim - 1)), x, y)


def halved(latent):
    """`latent` with half of its gradient (appendix G), or that of long unrolls would grow."""
    return 0.5 * latent + 0.5 * jax.lax.stop_gradient(latent)
