"""The cart-pole's physics against mechanics in float64, its reward against known values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import solve_continuous_are

from dreamerzero import envs
from dreamerzero.envs.swingup import EnvParams, EnvState, reward, stop_at_rail

GRAVITY, CART, POLE, HALF = 9.81, 1.0, 0.1, 0.5


def mass_matrix(theta):
    """Kinetic energy is ½ [ẋ, θ̇] M [ẋ, θ̇]: a cart, and a uniform rod about its lower end."""
    coupling = POLE * HALF * np.cos(theta)
    return np.array([[CART + POLE, coupling], [coupling, 4 / 3 * POLE * HALF**2]])


def energy(motion):
    motion = np.asarray(motion, np.float64)
    theta, rates = motion[1], motion[2:]
    return 0.5 * rates @ mass_matrix(theta) @ rates + POLE * GRAVITY * HALF * np.cos(theta)


def lagrange(_, motion, force):
    """Euler and Lagrange: M q̈ + Ṁ q̇ − ∂T/∂q + ∂V/∂q = (force, 0)."""
    _, theta, x_dot, theta_dot = motion
    sin = np.sin(theta)
    right = [force + POLE * HALF * sin * theta_dot**2, POLE * GRAVITY * HALF * sin]
    return [x_dot, theta_dot, *np.linalg.solve(mass_matrix(theta), right)]


def drive(motion, controls, params=None):
    """The motion `[T, 4]` and rewards `[T]` under these controls."""
    env = envs.make("CartPoleSwingup-v0")
    env = env if params is None else env.replace(params=params)

    @jax.jit
    def run(motion, controls):
        def step(state, control):
            state, _, successor = env.step(jax.random.key(0), state, control[None])
            return state, (state.motion, successor)

        state = EnvState(time=jnp.int32(0), motion=jnp.asarray(motion, jnp.float32))
        return jax.lax.scan(step, state, jnp.asarray(controls, jnp.float32))[1]

    return jax.tree.map(np.asarray, run(motion, controls))


def test_free_pole_keeps_its_energy():
    start = np.array([0.0, 1.0, 0.0, 3.0])
    motions, _ = drive(start, np.zeros(900), EnvParams(rail=1e3))
    energies = np.array([energy(motion) for motion in motions])
    span = 2 * POLE * GRAVITY * HALF  # between hanging and upright
    assert np.max(np.abs(energies - energy(start))) < 1e-3 * span
    assert np.ptp(motions[:, 1]) > 3  # it does swing


@pytest.mark.parametrize("control", [-1.0, 0.3])
def test_motion_against_an_integrator(control):
    start = np.array([0.1, 2.0, -0.5, 1.0])
    motions, _ = drive(start, np.full(100, control), EnvParams(rail=1e3))
    solution = solve_ivp(lagrange, (0, 1), start, args=(10 * control,), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(motions[-1], solution.y[:, -1], rtol=1e-3, atol=1e-3)


def test_the_rail_ends_and_energy_never_grows():
    motions, _ = drive(np.array([1.7, 0.4, 2.0, -1.0]), np.zeros(50))
    assert np.max(motions[:, 0]) == np.float32(1.8)
    energies = np.array([energy(motion) for motion in motions])
    assert np.all(np.diff(energies) < 1e-5)

    for seed in range(20):
        before = np.random.default_rng(seed).normal(size=4) * [0.0, 2.0, 3.0, 3.0]
        before[0] = 1.9 * np.sign(before[2])
        after = np.asarray(stop_at_rail(jnp.asarray(before, jnp.float32), EnvParams()), np.float64)
        assert after[2] == 0.0
        # The stop pushes on the cart only: the momentum that belongs to θ is untouched.
        momenta = [mass_matrix(q[1])[1] @ q[2:] for q in (before, after)]
        np.testing.assert_allclose(momenta[1], momenta[0], rtol=1e-4, atol=1e-5)
        assert energy(after) <= energy(before) + 1e-6
    # A cart that already leaves the end is let go.
    leaving = jnp.array([1.9, 0.0, -1.0, 0.5])
    np.testing.assert_allclose(stop_at_rail(leaving, EnvParams()), [1.8, 0.0, -1.0, 0.5])


def test_full_force_holds_the_cart_at_the_end():
    motions, _ = drive(np.array([0.0, np.pi, 0.0, 0.0]), np.ones(300))
    assert np.all(motions[150:, 0] == np.float32(1.8))
    assert np.all(motions[150:, 2] == 0.0)


@pytest.mark.parametrize(
    ("motion", "control", "expected"),
    [
        ([0, 0, 0, 0], 0, 1.0),  # upright, centred, still
        ([0, np.pi, 0, 0], 0, 0.0),  # hanging
        ([0, np.pi / 2, 0, 0], 0, 0.5),
        ([2, 0, 0, 0], 0, 0.55),  # (1 + 0.1)/2 at the margin
        ([0, 0, 0, -5], 0, 0.55),
        ([0, 0, 9, 0], 0, 1.0),  # the cart's speed is free
        ([0, 0, 0, 0], -1, 0.8),
        ([0, 0, 0, 0], 0.5, 0.95),
        ([1, 0, 0, 0], 0, (1 + 0.1**0.25) / 2),
        ([2, np.pi / 2, 0, 5], 1, 0.5 * 0.55 * 0.55 * 0.8),
    ],
)
def test_reward(motion, control, expected):
    got = reward(jnp.asarray(motion, jnp.float32), jnp.float32(control))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_an_episode_is_a_thousand_steps_and_never_terminates():
    _, successor = drive(np.array([0.0, np.pi, 0.0, 0.0]), np.sin(np.arange(2000.0)))
    np.testing.assert_array_equal(np.flatnonzero(successor.truncated), [999, 1999])
    assert not successor.terminated.any()
    assert np.all((successor.reward >= 0) & (successor.reward <= 1))


def test_starts_hanging():
    _, timestep = jax.vmap(envs.make("CartPoleSwingup-v0").reset)(
        jax.random.split(jax.random.key(0), 100)
    )
    observation = np.asarray(timestep.observation)
    np.testing.assert_allclose(observation.mean(0), [0, -1, 0, 0, 0], atol=0.01)
    assert np.all(observation.std(0)[[0, 2, 3, 4]] > 0.005)


def balancing_gains():
    """LQR gains of [x, θ, ẋ, θ̇] at the top, for a control in [−1, 1]."""
    linear = np.zeros((4, 4))
    linear[:2, 2:] = np.eye(2)
    linear[2:, 1] = np.linalg.solve(mass_matrix(0.0), [0.0, POLE * GRAVITY * HALF])
    push = np.concatenate([np.zeros(2), np.linalg.solve(mass_matrix(0.0), [10.0, 0.0])])[:, None]
    cost_to_go = solve_continuous_are(linear, push, np.diag([1.0, 10.0, 0.1, 0.1]), np.eye(1))
    return jnp.asarray(push.T @ cost_to_go, jnp.float32)[0]


def test_a_textbook_controller_solves_it():
    """Pumps energy into the pole until it is nearly up, and balances it there."""
    env, gains = envs.make("CartPoleSwingup-v0"), balancing_gains()

    def controller(observation):
        x, cos, sin, x_dot, theta_dot = observation
        missing = 0.5 * 4 / 3 * HALF * theta_dot**2 + GRAVITY * (cos - 1)
        pump = 0.5 * missing * theta_dot * cos - 0.3 * x - 0.1 * x_dot
        balance = -gains @ jnp.stack([x, jnp.arctan2(sin, cos), x_dot, theta_dot])
        return jnp.where(cos > 0.9, balance, pump)[None]

    @jax.jit
    def episode(key):
        def step(carry, key):
            state, timestep = carry
            state, timestep, successor = env.step(key, state, controller(timestep.observation))
            return (state, timestep), successor.reward

        return jax.lax.scan(step, env.reset(key), jax.random.split(key, 1000))[1]

    rewards = np.asarray(episode(jax.random.key(0)))
    assert rewards[-100:].min() > 0.99
    assert rewards.sum() > 700


def test_doing_nothing_earns_nothing():
    _, successor = drive(np.array([0.0, np.pi - 0.01, 0.0, 0.0]), np.zeros(999))
    assert successor.reward.sum() < 1
