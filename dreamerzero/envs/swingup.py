"""Cart-pole swing-up: a continuous-control task that needs a plan, at the price of a cart-pole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces


@struct.dataclass
class EnvState(environment.EnvState):
    motion: jax.Array
    """`[4]`: cart position (m), pole angle (rad, 0 upright), and their rates."""


@struct.dataclass
class EnvParams(environment.EnvParams):
    max_steps_in_episode: int = 1000
    gravity: float = 9.81
    cart_mass: float = 1.0
    pole_mass: float = 0.1
    half_length: float = 0.5
    gear: float = 10.0
    """Newtons of force at full action."""
    rail: float = 1.8
    """The cart stops dead at this distance from the centre (m)."""
    tau: float = 0.01
    """Seconds a step."""


class CartPoleSwingup(environment.Environment[EnvState, EnvParams]):
    """Swing a hanging pole up, and hold it above the middle of the rail.

    Task, reward and dimensions are those of the DeepMind Control Suite's cartpole swingup (Tassa et
    al. 2018), without its negligible joint friction. The reward is in [0, 1], an episode is 1000
    steps and never terminates: its end is always the time limit.

    The observation is `[x, cos θ, sin θ, ẋ, θ̇]`, the action one number in [−1, 1].
    """

    @property
    def default_params(self) -> EnvParams:
        return EnvParams()

    def reset_env(self, key, params):
        hanging = jnp.array([0.0, jnp.pi, 0.0, 0.0])
        motion = hanging + 0.01 * jax.random.normal(key, (4,))
        state = EnvState(time=jnp.int32(0), motion=motion)
        return self.get_obs(state), state

    def step_env(self, key, state, action, params):
        control = jnp.clip(jnp.reshape(action, ()), -1.0, 1.0)
        motion = stop_at_rail(runge_kutta(state.motion, control, params), params)
        state = EnvState(time=state.time + 1, motion=motion)
        terminated = self.is_terminated(state, params)
        return self.get_obs(state), state, reward(motion, control), terminated, {}

    def get_obs(self, state, params=None, key=None):
        x, theta, x_dot, theta_dot = state.motion
        return jnp.stack([x, jnp.cos(theta), jnp.sin(theta), x_dot, theta_dot])

    def is_terminated(self, state, params):
        return jnp.bool_(False)

    @property
    def name(self) -> str:
        return "CartPoleSwingup-v0"

    @property
    def num_actions(self) -> int:
        return 1

    def action_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (1,))

    def observation_space(self, params):
        high = jnp.array([params.rail, 1.0, 1.0, jnp.inf, jnp.inf])
        return spaces.Box(-high, high, (5,))


def acceleration(motion, control, params):
    """`[ẍ, θ̈]` of a cart with a uniform rod on it without friction (Florian 2007)."""
    _, theta, _, theta_dot = motion
    sin, cos, length = jnp.sin(theta), jnp.cos(theta), params.half_length
    mass = params.cart_mass + params.pole_mass
    push = (params.gear * control + params.pole_mass * length * theta_dot**2 * sin) / mass
    theta_acc = (params.gravity * sin - cos * push) / (
        length * (4 / 3 - params.pole_mass * cos**2 / mass)
    )
    x_acc = push - params.pole_mass * length * theta_acc * cos / mass
    return jnp.stack([x_acc, theta_acc])


def runge_kutta(motion, control, params):
    """One step of the classical fourth-order rule: the free pole keeps its energy."""

    def rate(motion):
        return jnp.concatenate([motion[2:], acceleration(motion, control, params)])

    tau = params.tau
    k_1 = rate(motion)
    k_2 = rate(motion + tau / 2 * k_1)
    k_3 = rate(motion + tau / 2 * k_2)
    k_4 = rate(motion + tau * k_3)
    return motion + tau / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)


def stop_at_rail(motion, params):
    """The inelastic stop at the rail's end.

    The impulse acts on the cart alone, so the pole keeps its momentum conjugate to θ,
    m·l·cos θ·ẋ + 4/3·m·l²·θ̇: what the cart gives up goes to the pole, and energy never grows.
    """
    x, theta, x_dot, theta_dot = motion
    blocked = (jnp.abs(x) > params.rail) & (x * x_dot > 0)
    kick = 0.75 * jnp.cos(theta) * x_dot / params.half_length
    return jnp.stack(
        [
            jnp.clip(x, -params.rail, params.rail),
            theta,
            jnp.where(blocked, 0.0, x_dot),
            jnp.where(blocked, theta_dot + kick, theta_dot),
        ]
    )


def reward(motion, control):
    """Upright × centred × little control × little swing, each in [0, 1] and 1 at best."""
    x, theta, _, theta_dot = motion
    upright = (1 + jnp.cos(theta)) / 2
    centred = (1 + near_zero(x, margin=2.0)) / 2
    small_control = (4 + (1 - control**2)) / 5
    small_velocity = (1 + near_zero(theta_dot, margin=5.0)) / 2
    return upright * centred * small_control * small_velocity


def near_zero(value, margin):
    """1 at zero, a Gaussian that has fallen to 0.1 at `margin`."""
    return 0.1 ** ((value / margin) ** 2)
