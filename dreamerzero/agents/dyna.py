"""Dyna (Sutton 1990; Sutton & Barto 2018, ch. 8): learn from what happens, and from remembering it.

env → Q-learning; env → table → n remembered pairs → Q-learning; Q → ε-greedy → env

After each real step (s, a, r, s′), and after each of the n remembered ones,
  Q(s, a) ← Q(s, a) + α [r + γ max_a′ Q(s′, a′) − Q(s, a)]                                   (6.8)
and the variants change what is remembered and how:
  Q-learning              `planning_steps=0`: nothing is
  Dyna-Q                  uniformly, from a model of the last outcome of each pair        (§8.2)
  Dyna-Q+                 `kappa > 0`: r + κ√τ, τ steps after the pair was last tried     (§8.3)
  prioritised sweeping    `sampling="prioritised"`: the largest error first              (§8.4)
  stochastic worlds       `model="expected"` or `"sampled"`: by the counts of outcomes   (§8.5)

Previous in the lineage: Q-learning, which forgets. Next: mbpo, which replays from a learnt network.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from dreamerzero.types import (
    ActorOutput,
    Discrete,
    EnvSpec,
    Metrics,
    Phase,
    Rollout,
    UsageError,
    static,
)
from dreamerzero.worlds import tabular


@struct.dataclass
class Dyna:
    """Tabular Q-learning that plans with a table of the world."""

    spec: EnvSpec = static()
    num_envs: int = static(1)
    """Parallel environments; their steps are learnt from one after the other."""
    planning_steps: int = static(10)
    """Updates from remembered pairs after each real step; 0 is plain Q-learning."""
    sampling: str = static("uniform")
    """Which pairs are remembered: `uniform` or `prioritised`."""
    model: str = static("deterministic")
    """What a pair leads to: `deterministic` (the last outcome), `expected` or `sampled`."""
    outcomes: int = static(8)
    """Distinct outcomes of a pair that a stochastic model can tell apart."""
    learning_rate: float = 0.1
    """α: how far an update moves towards its target."""
    discount: float = 0.95
    """γ: what a reward is worth one step later."""
    epsilon: float = 0.1
    """Probability of a uniformly random action while exploring."""
    kappa: float = 0.0
    """Dyna-Q+: reward for each square root of a step not tried. Above 0, untried actions count."""
    theta: float = 1e-4
    """Prioritised sweeping: errors below this are left alone."""

    PRESETS: ClassVar[dict[str, dict]] = {"default": {}}

    @classmethod
    def default_preset(cls, backend: str) -> str:
        return "default"

    @property
    def world(self) -> tabular.Tabular:
        outcomes = 1 if self.model == "deterministic" else self.outcomes
        return tabular.Tabular(self.spec, outcomes, self.discount)

    def check(self):
        """Raises `UsageError` for an environment without a table, or fields that cannot be."""
        if not isinstance(self.spec.action, Discrete):
            raise UsageError(
                f"dyna needs discrete actions; those of {self.spec.name} are continuous. "
                "Choose an agent for continuous actions."
            )
        states = tabular.num_states(self.spec)
        if states * self.spec.action.num * self.world.outcomes >= 2**31:
            raise UsageError(
                f"dyna keeps a table of all states, and the observations of {self.spec.name} can "
                f"tell 10^{math.log10(states):.0f} apart. Choose an agent with a neural network."
            )
        for field, allowed in (
            ("sampling", ("uniform", "prioritised")),
            ("model", ("deterministic", "expected", "sampled")),
        ):
            if getattr(self, field) not in allowed:
                raise UsageError(
                    f"dyna.{field} is one of {', '.join(allowed)}; got {getattr(self, field)!r}."
                )
        for field, low, high in (
            ("num_envs", 1, math.inf),
            ("outcomes", 1, math.inf),
            ("learning_rate", 0.0, 1.0),
            ("discount", 0.0, 1.0),
            ("epsilon", 0.0, 1.0),
            ("kappa", 0.0, math.inf),
            ("theta", 0.0, math.inf),
        ):
            value = getattr(self, field)
            if isinstance(value, int | float) and not low <= value <= high:
                raise UsageError(f"dyna.{field} is from {low} to {high}; got {value}.")
        if self.sampling == "prioritised":
            for field, bad, why in (
                ("planning_steps", 0, "every update comes from the queue"),
                ("model", "sampled", "a sampled error is no priority"),
            ):
                if getattr(self, field) == bad:
                    raise UsageError(
                        f"dyna with prioritised sampling cannot have {field}={bad}: {why}."
                    )
            if isinstance(self.kappa, int | float) and self.kappa > 0:
                raise UsageError(
                    "dyna with prioritised sampling cannot have kappa > 0: a bonus that grows with "
                    "time would change every priority at every step."
                )

    def init(self, key) -> State:
        table = self.world.init()
        q = jnp.zeros(table.tried_at.shape)
        priority = jnp.zeros_like(q) if self.sampling == "prioritised" else None
        return State(params=q, table=table, priority=priority)

    def memory(self, batch_size: int) -> None:
        return None

    def act(self, params, key, timestep, memory, *, explore: bool) -> ActorOutput:
        q = params[tabular.encode(self.spec, timestep.observation)]
        if not explore:
            return ActorOutput(jnp.argmax(q, axis=-1), memory)
        # Ties are broken at random; at random altogether with probability ε.
        coin_key, noise_key = jax.random.split(key)
        anything = jax.random.bernoulli(coin_key, self.epsilon, (q.shape[0], 1))
        allowed = anything | (q == q.max(axis=-1, keepdims=True))
        noise = jax.random.uniform(noise_key, q.shape)
        return ActorOutput(jnp.argmax(jnp.where(allowed, noise, -1.0), axis=-1), memory)

    def observe(self, state: State, rollout: Rollout) -> State:
        """Learns from the real steps, in the order of time, and remembers them."""
        after = rollout.next_timestep
        transitions = (
            tabular.encode(self.spec, rollout.timestep.observation),
            rollout.action,
            after.reward,
            tabular.encode(self.spec, after.observation),
            after.terminated,
        )
        flat = jax.tree.map(lambda x: x.reshape(-1), transitions)
        return jax.lax.scan(self._observe, state, flat)[0]

    def _observe(self, state: State, transition):
        s_tm1, a_tm1, r_t, s_t, terminated = transition
        pair = s_tm1, a_tm1
        table = tabular.remember(state.table, *transition)
        if self.sampling == "prioritised":
            equation = expectation(tabular.recall(table, pair), self.discount)
            value = state.params[equation.successor].max(axis=-1)
            error = backup(equation, value) - state.params[pair]
            priority = queue(state.priority[pair], error, self.theta)
            return state.replace(table=table, priority=state.priority.at[pair].set(priority)), None
        discount_t = self.discount * (1.0 - terminated)
        error = r_t + discount_t * state.params[s_t].max() - state.params[pair]
        q = state.params.at[pair].add(self.learning_rate * error)
        return state.replace(params=q, table=table), None

    def learn(self, state: State, key) -> tuple[State, Metrics]:
        """Plans `planning_steps` updates, one after the other."""
        plan = self._sweep if self.sampling == "prioritised" else self._replay
        state, backups = plan(state, key)
        # Nothing here measures errors: carried through the loop, that costs most of its speed.
        return state, {"backups": backups, "states": state.table.num_seen.astype(jnp.float32)}

    def _replay(self, state: State, key):
        """Dyna-Q and Dyna-Q+: pairs drawn uniformly."""
        pair_key, outcome_key = jax.random.split(key)
        table = state.table
        # The model stands still while planning: everything but Q is looked up beforehand, at once.
        pairs = tabular.sample_pairs(table, pair_key, self.planning_steps, self.kappa > 0)
        outcomes = tabular.recall(table, pairs)
        if self.model == "sampled":
            outcomes = tabular.sample(outcome_key, outcomes)
        equation = expectation(outcomes, self.discount)
        bonus = self.kappa * jnp.sqrt(table.clock - table.tried_at[pairs])
        equation = equation._replace(reward=equation.reward + bonus)

        def update(q, inputs):
            pair, equation = inputs
            error = backup(equation, q[equation.successor].max(axis=-1)) - q[pair]
            return q.at[pair].add(self.learning_rate * error), None

        q, _ = jax.lax.scan(update, state.params, (pairs, equation))
        return state.replace(params=q), jnp.float32(self.planning_steps)

    def _sweep(self, state: State, key):
        """Prioritised sweeping: the first of the queue, then whatever leads to it."""
        table = state.table
        everywhere = expectation(tabular.recall(table, ...), self.discount)
        known = table.count > 0  # a place without an outcome leads nowhere

        def update(carry, _):
            q, priority, backups = carry
            pair = jnp.unravel_index(jnp.argmax(priority), priority.shape)
            active = priority[pair] > 0
            equation = jax.tree.map(lambda x: x[pair], everywhere)
            error = backup(equation, q[equation.successor].max(axis=-1)) - q[pair]
            q = q.at[pair].add(jnp.where(active, self.learning_rate * error, 0.0))
            priority = priority.at[pair].set(0.0)
            leads_here = (known & (everywhere.successor == pair[0])).any(-1)
            # With one outcome, what leads here leads nowhere else: no need to look its value up.
            only = everywhere.successor.shape[-1] == 1
            value = q[pair[0]].max() if only else q.max(axis=-1)[everywhere.successor]
            risen = queue(priority, backup(everywhere, value) - q, self.theta)
            return (q, jnp.where(leads_here & active, risen, priority), backups + active), None

        start = state.params, state.priority, 0.0
        (q, priority, backups), _ = jax.lax.scan(update, start, length=self.planning_steps)
        return state.replace(params=q, priority=priority), backups

    @property
    def replayed_per_update(self) -> int:
        """Remembered transitions in one call of `learn`."""
        return self.planning_steps

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """`planning_steps` updates for each real step, from the first one on."""
        learn = "learn" if self.planning_steps else ""
        return (Phase("train", steps // self.num_envs, 1, learn=learn, repeats=self.num_envs),)


@struct.dataclass
class State:
    """What Dyna has learnt of S states and A actions."""

    params: jax.Array  # Q, [S, A]
    table: tabular.Table
    priority: jax.Array | None  # [S, A], 0 if not in the queue; None if sampling is uniform


class Equation(NamedTuple):
    """The Bellman equations of pairs `[...]`, but for Q: what planning can look up beforehand."""

    reward: jax.Array  # [...]
    weight: jax.Array  # [..., K], of the value of each successor
    successor: jax.Array  # [..., K]


def expectation(outcomes: tabular.Outcomes, discount) -> Equation:
    """Σ_k p_k r_k, and γ p_k for every outcome that is no end."""
    probability, reward, terminated, successor = outcomes
    weight = discount * probability * (1.0 - terminated)
    return Equation(jnp.sum(probability * reward, axis=-1), weight, successor)


def backup(equation: Equation, value) -> jax.Array:
    """The expected return of pairs `[...]` after one step: Σ_k p_k [r_k + γ_k v_k].

    Args:
      value: max_a Q(s_k, a) of each successor, `[..., K]` or what broadcasts to it.
    """
    return equation.reward + jnp.sum(equation.weight * value, axis=-1)


def queue(priority, error, theta) -> jax.Array:
    """The priority of a pair with that error: it enters above θ, and only ever rises there."""
    size = jnp.abs(error)
    return jnp.where(size > theta, jnp.maximum(priority, size), priority)
