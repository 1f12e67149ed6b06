"""An ensemble of probabilistic networks: what will happen, how noisy it is, how well that is known.

    [r, s′ − s] ~ N(μ_e(s, a), σ_e²(s, a))     each member e, a network of its own

σ is the noise of the world (aleatoric); how far the members' μ lie apart is what they do not know
(epistemic). A step asks one of the elites, the members with the least error on held-out data:
another at every step (TS1), one for the whole rollout (TS∞), or all of them for the mean.

Chua et al. 2018 (PETS); sizes, elites and fit as in Janner et al. 2019 (MBPO). Different from both:
targets are normalised as inputs are, or what the bounds of σ mean depends on units (2,000 rows of a
sine with noise: 0.07 nats from the optimum, without 0.27, and 1.1 if it is 100 times smaller);
members have bounds of their own, which share the weight of the common ones; and what a fit brings
down is the geometric mean of the targets' errors, so that one that nobody can foretell, such as the
reward of a rare end, does not hide what is still to be learnt of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dreamerzero.nn.heads import bernoulli_loss
from dreamerzero.nn.networks import MLP, rows_at_once
from dreamerzero.nn.normalisers import RunningMoments
from dreamerzero.types import Box, Discrete, EnvSpec, Prediction, Transition, UsageError, static

PARTICLES = ("ts1", "tsinf", "mean")
"""Who is asked: a member for each step, a member for each rollout, or all."""

PESSIMISM = ("none", "epistemic", "aleatoric")
"""Which spread is subtracted from the reward."""


def weight_decays(layers: int) -> tuple[float, ...]:
    """Of so many hidden layers, and the last one: with 4 those of MBPO's code.

    Raises:
      UsageError: for less than 2 hidden layers.
    """
    if layers < 2:
        raise UsageError(f"A member of an ensemble has 2 hidden layers or more; got {layers}.")
    return (2.5e-5, 5e-5, *[7.5e-5] * (layers - 2), 1e-4)


@struct.dataclass
class Params:
    """What was learnt; `elites [K]` are the best members, the very best first."""

    members: dict[str, Any]  # network, low and high (the bounds of log σ²), leaves [E, ...]
    elites: jax.Array
    inputs: RunningMoments  # of [s, a]
    targets: RunningMoments  # of [r, s′ − s]


@struct.dataclass
class Latent:
    """An observation `[B, N]`, and which elite each row asked `[B]`; −1 if none yet."""

    observation: jax.Array
    member: jax.Array


class Outputs(NamedTuple):
    """Of one network or several, in units of the normalised targets."""

    mean: jax.Array  # [..., 1 + N]
    var: jax.Array  # [..., 1 + N], σ²
    logit: jax.Array  # [...], of going on, if that is learnt

    @property
    def std(self):
        return jnp.sqrt(self.var)

    @property
    def going_on(self):
        return jax.nn.sigmoid(self.logit)


class Spread(NamedTuple):
    """Of reward and change, `[B, 1 + N]` each, in the environment's units."""

    epistemic: jax.Array  # the standard deviation of the elites' means
    aleatoric: jax.Array  # the mean of their standard deviations


@struct.dataclass
class Ensemble:
    """A `World` of vectors. Its networks have a hidden layer for all but the last weight decay."""

    spec: EnvSpec = static()
    members: int = static(7)
    elites: int = static(5)
    units: int = static(200)
    batch_size: int = static(256)
    particles: str = static("ts1")  # or tsinf or mean
    pessimism: str = static("none")  # or epistemic or aleatoric, at the price of asking all elites
    termination: Callable | None = static(None)
    """`(observation, action, next_observation) -> [B]`, whether it ends there; learnt if None"""
    discount: float = 0.99
    penalty: float = 1.0  # λ of a pessimistic reward r − λ u
    weight_decay: tuple[float, ...] = weight_decays(4)
    bound_scale: float = 0.01
    learning_rate: float = 1e-3
    holdout: float = 0.2  # share of the data
    max_holdout: int = 5000
    improvement: float = 0.01  # by how much an error falls at least, or it does not count
    patience: int = 5  # epochs without any improvement
    max_epochs: int = 200

    @property
    def net(self) -> MLP:
        outputs = 2 * self._targets + (self.termination is None)
        # Small changes are the whole matter: never in bfloat16.
        return MLP(len(self.weight_decay) - 1, self.units, outputs, act="silu", dtype=jnp.float32)

    @property
    def _targets(self) -> int:
        return 1 + self.spec.observation.shape[0]

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)

    def check(self):
        """Raises UsageError for what no ensemble can predict."""
        space = self.spec.observation
        if not isinstance(space, Box) or len(space.shape) != 1 or space.dtype != "float32":
            raise UsageError(
                f"An ensemble predicts float32 vectors; {self.spec.name} shows {space}. "
                "Choose an agent whose world has latents, or change the observation."
            )
        if not 1 <= self.elites <= self.members:
            raise UsageError(f"1 to {self.members} members can be asked; got {self.elites}.")
        if self.pessimism not in PESSIMISM:
            raise UsageError(f"pessimism is one of {', '.join(PESSIMISM)}; got {self.pessimism!r}.")

    def init(self, key) -> Params:
        self.check()
        one = Transition.example(self.spec)
        x = self._inputs(one.observation, one.action)
        keys, bound = jax.random.split(key, self.members), jnp.ones((self.members, self._targets))
        return Params(
            members={
                "network": jax.vmap(self.net.init, (0, None))(keys, x),
                "low": -10.0 * bound,
                "high": 0.5 * bound,
            },
            elites=jnp.arange(self.elites),
            inputs=RunningMoments.init(x.shape),
            targets=RunningMoments.init((self._targets,)),
        )

    def initial(self, batch_size: int) -> Latent:
        observation = jnp.zeros((batch_size, *self.spec.observation.shape))
        return Latent(observation, jnp.full(batch_size, -1, jnp.int32))

    def observe(self, params, key, latent, action, observation, is_first) -> Latent:
        """The start of a rollout from observations `[B, N]`, whatever came before."""
        return Latent(observation, jnp.full(len(observation), -1, jnp.int32))

    def step(self, params, key, action, latent: Latent) -> tuple[Prediction, Latent]:
        """Imagines one step `[B, ...]`, with the noise of the elite that is asked.

        Every group of K successive rows shares the K elites among it, in an order drawn anew. So
        the member of each row is exactly uniform; groups are independent, but in a group no two
        rows ask the same. Averages over rows have the expectation of independent draws, and with a
        multiple of K particles a planner hears every elite equally often about each sequence.

        A pessimistic reward is r − λ u (Yu et al. 2020, MOPO, §4), with u the root mean square of
        a spread, each number in units of its targets' standard deviation.
        """
        member_key, noise_key = jax.random.split(key)
        if self.particles == "mean":
            member, everyone = latent.member, self.ask_all(params, action, latent)
            y, going_on = everyone.mean.mean(axis=0), everyone.going_on.mean(axis=0)
        else:
            member = self._choose(member_key, latent.member)
            own = self._ask_one(params, member, action, latent)
            noise = jax.random.normal(noise_key, own.mean.shape)
            y, going_on = own.mean + own.std * noise, own.going_on
        y = params.targets.denormalise(y)
        reward, observation = y[:, 0], latent.observation + y[:, 1:]
        if self.pessimism != "none":
            spread = getattr(self.spread(params, action, latent), self.pessimism)
            relative = jnp.square(spread / params.targets.scale)
            reward -= self.penalty * jnp.sqrt(jnp.mean(relative, axis=-1))
        if self.termination is not None:
            going_on = 1.0 - self.termination(latent.observation, action, observation)
        return Prediction(reward, self.discount * going_on), Latent(observation, member)

    def spread(self, params, action, latent: Latent) -> Spread:
        """How little is known of what a step `[B, ...]` leads to, and how noisy it is."""
        everyone, scale = self.ask_all(params, action, latent), params.targets.scale
        return Spread(scale * everyone.mean.std(axis=0), scale * everyone.std.mean(axis=0))

    def _choose(self, key, member):
        """Which elite each row asks, `[B]`."""
        blocks = -(-len(member) // self.elites)
        ordered = jnp.broadcast_to(jnp.arange(self.elites), (blocks, self.elites))
        drawn = jax.random.permutation(key, ordered, axis=1, independent=True)
        drawn = drawn.ravel()[: len(member)]
        return jnp.where(member < 0, drawn, member) if self.particles == "tsinf" else drawn

    def _ask_one(self, params, member, action, latent: Latent) -> Outputs:
        """What elite `member [B]` says of a step `[B, ...]`, each row given to that one alone.

        NaN where two rows of a group want the same: while members are fixed, rows may not move
        to other groups.
        """
        x = params.inputs.normalise(self._inputs(latent.observation, action))
        rows, groups, best = jnp.arange(len(x)), -(-len(x) // self.elites), self._best(params)
        place = rows // self.elites, member
        asked = jnp.zeros((groups, self.elites), jnp.int32).at[place].set(rows)
        mine = asked[place] == rows

        def ask(asked):
            """The elites, each about one row of a group."""
            return jax.tree.map(lambda leaf: leaf[:, 0], self._apply(best, x[asked][:, None]))

        def own(leaf):
            return jax.vmap(jnp.where, (0, 0, None))(mine, leaf[place], jnp.nan)

        return jax.tree.map(own, jax.lax.map(ask, asked, batch_size=rows_at_once()))

    def ask_all(self, params, action, latent: Latent) -> Outputs:
        """What every elite says of a step `[B, ...]`: leaves `[K, B, ...]`."""
        x = params.inputs.normalise(self._inputs(latent.observation, action))
        return self._apply(self._best(params), jnp.broadcast_to(x, (self.elites, *x.shape)))

    def _best(self, params):
        return jax.tree.map(lambda leaf: leaf[params.elites], params.members)

    def _apply(self, members, x) -> Outputs:
        """Networks `[E, ...]`, each on its own `x [E, B, I]`: leaves `[E, B, ...]`.

        log σ² is held between the bounds by two softplus (Chua et al. 2018, appendix A.1):
        low + softplus(high − softplus(high − x) − low). Its exponential is the sum below, which a
        CPU has in a tenth of the time.
        """
        y = jax.vmap(self.net.apply)(members["network"], x)
        num = self._targets
        mean, free, logit = y[..., :num], y[..., num : 2 * num], y[..., -1]
        low, high = members["low"][:, None], members["high"][:, None]
        var = jnp.exp(low) + jnp.exp(high) * jax.nn.sigmoid(free - high)
        return Outputs(mean, var, logit)

    def loss(self, params, key, batch: Transition):
        """Twice the negative log-likelihood of each member's own batch, `[E, B, ...]`.

        l_e = mean[(y − μ)² / σ² + log σ²] + ½ Σ_l w_l ‖W_l‖² + β / E Σ (high − low)
        (Chua et al. 2018, eq. 1), the mean over rows and targets. A learnt end adds its −log p.

        Returns:
          The sum over members, and the squared errors `[E, B, 1 + N]`.
        """
        x, y = self._examples(batch)
        mean, var, logit = self._apply(params.members, params.inputs.normalise(x))
        error = jnp.square(params.targets.normalise(y) - mean)
        loss = jnp.sum(jnp.mean(error / var + jnp.log(var), axis=(1, 2)))
        if self.termination is None:
            going_on = 1.0 - batch.terminated
            loss += jnp.sum(jnp.mean(bernoulli_loss(logit, going_on), axis=1))
        for layer, weight in enumerate(self.weight_decay):
            kernel = params.members["network"]["params"][f"Dense_{layer}"]["Dense_0"]["kernel"]
            loss += 0.5 * weight * jnp.sum(jnp.square(kernel))
        width = jnp.sum(params.members["high"] - params.members["low"])
        return loss + self.bound_scale / self.members * width, error

    def fit(self, params, optimiser, key, data: Transition, size):
        """Goes on learning until errors on held-out data stop falling (Janner et al. 2019).

        Each member learns from a bootstrap of its own: as many rows as there are, drawn from them
        with replacement, and passed through once an epoch from a random place on. It keeps the
        weights of its best epoch; earlier ones have seen some of what is now held out.

        Args:
          optimiser: state of `self.optimiser`, for `params.members`.
          data: `[capacity, ...]`, of which the first `size` rows are filled, two or more.
        """
        split_key, bag_key, key = jax.random.split(key, 3)
        filled = jnp.arange(len(data.reward)) < size
        order = jnp.argsort(jnp.where(filled, jax.random.uniform(split_key, filled.shape), jnp.inf))
        num_held = jnp.clip(jnp.int32(self.holdout * size), 1, self.max_holdout)
        num_learnt = size - num_held
        bags = jax.random.randint(bag_key, (self.members, len(filled)), 0, num_learnt)
        bags = order[num_held + bags]
        moments = [RunningMoments.of(rows, filled) for rows in self._examples(data)]
        params = params.replace(inputs=moments[0], targets=moments[1])
        block = jnp.arange(self.batch_size)

        def losses(members, rows):
            """Of each member on `rows [E, B]` of its own."""
            batch = jax.tree.map(lambda leaf: leaf[rows], data)
            return self.loss(params.replace(members=members), None, batch)

        def held_out(members):
            """Errors `[E]` on what is held out: of the targets' mean squares the geometric mean."""

            def add(i, total):
                place = i * self.batch_size + block
                rows = jnp.broadcast_to(order[place], (self.members, self.batch_size))
                error = losses(members, rows)[1]
                return total + jnp.sum(jnp.where(place[:, None] < num_held, error, 0.0), axis=1)

            blocks, none = -(-num_held // self.batch_size), jnp.zeros((self.members, self._targets))
            squares = jax.lax.fori_loop(0, blocks, add, none) / num_held
            # What never varies is foretold at once: it does not count endlessly.
            return jnp.exp(jnp.mean(jnp.log(squares + 1e-6), axis=1))

        def epoch(carry: _Fit) -> _Fit:
            start_key = jax.random.fold_in(key, carry.epochs)
            start = jax.random.randint(start_key, (self.members, 1), 0, num_learnt)

            def update(i, state):
                members, optimiser = state
                place = (start + i * self.batch_size + block) % num_learnt
                rows = jnp.take_along_axis(bags, place, axis=1)
                grads, _ = jax.grad(losses, has_aux=True)(members, rows)
                updates, optimiser = self.optimiser.update(grads, optimiser, members)
                return optax.apply_updates(members, updates), optimiser

            batches = -(-num_learnt // self.batch_size)
            before = carry.members, carry.optimiser
            members, optimiser = jax.lax.fori_loop(0, batches, update, before)
            error = held_out(members)
            better = error < (1.0 - self.improvement) * carry.error  # never if it is NaN
            best = jax.tree.map(partial(jax.vmap(jnp.where), better), members, carry.best)
            error = jnp.where(better, error, carry.error)
            stale = jnp.where(better.any(), 0, carry.stale + 1)
            return _Fit(members, optimiser, best, error, stale, carry.epochs + 1)

        def goes_on(carry: _Fit):
            return (carry.stale <= self.patience) & (carry.epochs < self.max_epochs)

        never = jnp.full(self.members, jnp.inf)
        start = _Fit(params.members, optimiser, params.members, never, jnp.int32(0), jnp.int32(0))
        end = jax.lax.while_loop(goes_on, epoch, start)
        params = params.replace(members=end.best, elites=jnp.argsort(end.error)[: self.elites])
        metrics = {"holdout_error": end.error[params.elites].mean(), "epochs": end.epochs}
        return params, end.optimiser, metrics

    def _examples(self, batch: Transition):
        """Inputs [s, a] `[..., I]` and targets [r, s′ − s] `[..., 1 + N]`."""
        change = batch.next_observation - batch.observation
        targets = jnp.concatenate([batch.reward[..., None], change], axis=-1)
        return self._inputs(batch.observation, batch.action), targets

    def _inputs(self, observation, action):
        if isinstance(self.spec.action, Discrete):
            action = jax.nn.one_hot(action, self.spec.action.num)
        else:
            action = jnp.clip(action, -1.0, 1.0)
        return jnp.concatenate([observation, action], axis=-1)


class _Fit(NamedTuple):
    """What a fit carries from epoch to epoch."""

    members: Any
    optimiser: Any
    best: Any  # the members, each as it was at its least error
    error: jax.Array  # [E], that error
    stale: jax.Array  # epochs since one of them was beaten
    epochs: jax.Array
