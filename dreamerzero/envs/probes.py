"""Probes: the smallest environments that show one fault each in an agent.

Each shows a symbol out of `num_symbols`, one-hot (or as an integer, for tabular agents), and knows
the optimal value of every symbol in closed form. A test trains an agent on a probe for seconds and
compares: whichever probe fails names the part that is broken.

    env = envs.make(TruncationProbe())                         # one-hot, float32 `[num_symbols]`
    env = envs.make(TruncationProbe(tabular=True))             # int32 scalar
    TruncationProbe().values(discount=0.9)                     # what an agent must learn: [10.]
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces


@struct.dataclass
class EnvState(environment.EnvState):
    cue: jax.Array
    """0 or 1, drawn at the episode's start."""


@struct.dataclass
class EnvParams(environment.EnvParams):
    max_steps_in_episode: int = 1_000_000


class Probe(environment.Environment[EnvState, EnvParams]):
    """What all probes share. A probe is `length` steps, a symbol, a reward and the values."""

    length = 1  # steps until the episode terminates
    num_symbols = 1
    num_actions = 2

    def __init__(self, tabular: bool = False):
        self.tabular = tabular

    def symbol(self, state):
        """What is shown, before the episode's end."""
        return 0

    def reward(self, state, action):
        """The reward of `action` in `state`."""
        return 1.0

    def values(self, discount: float) -> np.ndarray:
        """The optimal value of each symbol, `[num_symbols]`."""
        raise NotImplementedError

    @property
    def default_params(self) -> EnvParams:
        return EnvParams()

    def reset_env(self, key, params):
        cue = jax.random.bernoulli(key).astype(jnp.int32)
        state = EnvState(time=jnp.int32(0), cue=cue)
        return self.get_obs(state), state

    def step_env(self, key, state, action, params):
        reward = jnp.float32(self.reward(state, action))
        state = state.replace(time=state.time + 1)
        return self.get_obs(state), state, reward, self.is_terminated(state, params), {}

    def get_obs(self, state, params=None, key=None):
        # The final observation is past the last symbol that counts; it repeats that one.
        symbol = jnp.minimum(self.symbol(state), self.num_symbols - 1)
        return symbol if self.tabular else jax.nn.one_hot(symbol, self.num_symbols)

    def is_terminated(self, state, params):
        return state.time >= self.length

    def action_space(self, params=None):
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params):
        if self.tabular:
            return spaces.Discrete(self.num_symbols)
        return spaces.Box(0.0, 1.0, (self.num_symbols,))


class ConstantProbe(Probe):
    """One step, reward 1. Fails if a value cannot be fitted at all."""

    def values(self, discount):
        return np.ones(1)


class ObservationProbe(Probe):
    """One step, reward −1 or 1 as shown. Fails if the value ignores the observation."""

    num_symbols = 2

    def symbol(self, state):
        return state.cue

    def reward(self, state, action):
        return 2.0 * state.cue - 1.0

    def values(self, discount):
        return np.array([-1.0, 1.0])


class DelayedProbe(Probe):
    """Two steps, reward 1 after the second. Fails if the discount or the bootstrap is wrong."""

    length = 2
    num_symbols = 2

    def symbol(self, state):
        return state.time

    def reward(self, state, action):
        return state.time == 1

    def values(self, discount):
        return np.array([discount, 1.0])


class ActionProbe(Probe):
    """One step, reward 1 for the action that is shown, else 0. Fails if behaviour is not learnt."""

    num_symbols = 2

    def symbol(self, state):
        return state.cue

    def reward(self, state, action):
        return action == state.cue

    def values(self, discount):
        return np.ones(2)


class ContinuousActionProbe(ActionProbe):
    """One step, reward 1 − (a − target)², the target −0.5 or 0.5 as shown."""

    num_actions = 1

    def action_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (1,))

    def reward(self, state, action):
        return 1.0 - jnp.square(jnp.reshape(action, ()) - (state.cue - 0.5))


class TruncationProbe(Probe):
    """Reward 1 for ever, cut every ten steps: the value is 1/(1 − γ).

    An agent that takes the time limit for an end learns about half of it at γ = 0.9.
    """

    length = 1_000_000

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=10)

    def values(self, discount):
        return np.ones(1) / (1.0 - discount)


class MemoryProbe(Probe):
    """The cue is shown first, and only then; the last action must repeat it. Reward 1 or 0.

    Fails if memory is lost, leaks over an episode's end, or is not learnt through time. Symbols 0
    and 1 are the cue, 2 … 4 count the steps since; without memory half the value is reached.
    """

    length = 4
    num_symbols = 5

    def symbol(self, state):
        return jnp.where(state.time == 0, state.cue, 1 + state.time)

    def reward(self, state, action):
        return (state.time == self.length - 1) & (action == state.cue)

    def values(self, discount):
        return discount ** np.array([3.0, 3.0, 2.0, 1.0, 0.0])


class BothEndsProbe(Probe):
    """Three steps of reward 1; the last one terminates and is cut by the time limit at once.

    The termination counts: an agent that bootstraps at any time limit values this too highly.
    """

    length = 3
    num_symbols = 3

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=3)

    def symbol(self, state):
        return state.time

    def values(self, discount):
        return np.array([1.0 + discount + discount**2, 1.0 + discount, 1.0])


PROBES = (
    ConstantProbe,
    ObservationProbe,
    DelayedProbe,
    ActionProbe,
    ContinuousActionProbe,
    TruncationProbe,
    MemoryProbe,
    BothEndsProbe,
)
