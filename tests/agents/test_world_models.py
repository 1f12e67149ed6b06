from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import agents, envs
from dreamerzero.agents.world_models import ROLLOUT, WorldModels
from dreamerzero.replay import sequence
from dreamerzero.training import program
from dreamerzero.types import Box, Discrete, EnvSpec, Prediction, UsageError
from dreamerzero.worlds.vision_memory import Latent, VisionMemory
from tests.envs.test_host import box2d

SMALL = {
    "num_envs": 2,
    "pictures": 50,
    "capacity": 200,
    "latents": 3,
    "depth": 1,
    "units": 4,
    "mixtures": 2,
    "vision_updates": 4,
    "vision_batch": 8,
    "memory_updates": 4,
    "memory_batch": 2,
    "memory_length": 10,
    "generations": 4,
    "population": 6,
    "episodes": 3,
    "dreamt_steps": 8,
    "check_every": 2,
    "check_episodes": 4,
}
PICTURE = Box((64, 64, 3), "uint8", 0.0, 255.0)
DRIVING, DOOM = (EnvSpec("paper", PICTURE, Box((n,), low=-1.0, high=1.0)) for n in (3, 1))


def small(name="Pendulum-pixels", **fields):
    return agents.make("world-models", envs.make(name), "xs", **(SMALL | fields))


@jax.jit
def fresh(agent):
    """A state in which nothing was seen yet."""
    return agent.init(jax.random.key(0))


@pytest.mark.parametrize(
    ("spec", "preset", "fields", "dims"),
    [
        (DRIVING, "paper-driving", {}, 867),
        (DRIVING, "paper-driving", {"sees": "z"}, 99),
        (DRIVING, "paper-driving", {"sees": "z", "hidden": 40}, 1_443),
        (DOOM, "paper-doom", {}, 1_088),
    ],
)
def test_the_paper_has_as_many_parameters(spec, preset, fields, dims):
    agent = WorldModels(spec=spec, **(WorldModels.PRESETS[preset] | fields))
    agent.check()
    assert agent.evolution.dims == dims
    state = jax.eval_shape(agent.init, jax.random.key(0))
    assert state.params["controller"].shape == state.search.mean.shape == (dims,)
    memory = sum(leaf.size for leaf in jax.tree.leaves(state.params["world"]["memory"]))
    assert (
        memory
        == {"paper": 422_368 + 2 * 257, "paper-doom": 1_678_785}[
            preset if preset == "paper-doom" else "paper"
        ]
    )


def latents(agent, rows, seed=0):
    rng = np.random.default_rng(seed)
    z, cell, hidden = (
        jnp.float32(rng.normal(size=(rows, n))) for n in (agent.latents, agent.units, agent.units)
    )
    return Latent(z, cell, hidden, jnp.zeros(rows, bool))


@pytest.mark.parametrize("sees", ["z", "zh", "zch"])
@pytest.mark.parametrize(("hidden", "bias"), [(0, True), (0, False), (5, True)])
def test_what_the_controller_does(sees, hidden, bias):
    agent = small(sees=sees, hidden=hidden, bias=bias)
    latent = latents(agent, 7)
    x = {"z": [latent.z], "zh": [latent.z, latent.hidden]}.get(
        sees, [latent.z, latent.cell, latent.hidden]
    )
    x = np.concatenate(x, axis=-1).astype(np.float64)
    rng, numbers = np.random.default_rng(1), []
    sizes = [x.shape[1], *([hidden] if hidden else []), 1]
    for number, (n, m) in enumerate(pairwise(sizes)):
        weights, offset = rng.normal(size=(n, m)), rng.normal(size=m) * bias
        numbers += [weights.ravel()] + [offset] * bias
        x = (np.tanh(x) if number else x) @ weights + offset
    controller = np.concatenate(numbers)
    assert agent.evolution.dims == len(controller)
    np.testing.assert_allclose(agent.decide(jnp.float32(controller), latent), np.tanh(x), atol=1e-5)


def test_noise_is_slow_as_wide_as_asked_and_only_there_to_explore():
    agent = small(noise=0.4, persistence=0.8)
    state = fresh(agent)
    _, timestep = jax.vmap(envs.make("Pendulum-pixels").reset)(
        jax.random.split(jax.random.key(1), 200)
    )

    @jax.jit
    def walk(memory, keys):
        def body(memory, key):
            action, memory, _ = agent.act(state.params, key, timestep, memory, explore=True)
            return memory, (memory.noise, action)

        return jax.lax.scan(body, memory, keys)[1]

    noise, action = walk(agent.memory(200), jax.random.split(jax.random.key(2), 40))
    noise, action = np.asarray(noise)[15:, :, 0], np.asarray(action)[15:, :, 0]
    np.testing.assert_allclose(noise.std(), 0.4, rtol=0.1)
    np.testing.assert_allclose(np.mean(noise[1:] * noise[:-1]) / 0.16, 0.8, atol=0.1)
    np.testing.assert_allclose(action, np.clip(noise, -1, 1), atol=1e-6)  # C does nothing yet
    greedy = agent.act(state.params, jax.random.key(3), timestep, agent.memory(200), explore=False)
    assert (greedy.action == 0.0).all()


def seen(agent, seed=0):
    """A state whose replay holds some frames, and whose codes are known: hardly any noise."""
    state, rng = fresh(agent), np.random.default_rng(seed)
    frames = state.codes.frames
    first = jnp.asarray(rng.uniform(size=frames.reward.shape) < 0.1)
    mean = jnp.float32(rng.normal(size=(*first.shape, agent.latents)))
    numbers = jnp.concatenate([mean, jnp.full(mean.shape, -60.0)], axis=-1)
    frames = frames.replace(is_first=first, observation=numbers)
    return state.replace(codes=state.codes.replace(frames=frames, head=jnp.array([70, 40])))


def test_dreams_begin_where_episodes_did():
    agent = small()
    state = seen(agent)
    frames = state.codes.frames
    held = np.arange(100) < np.array([[70], [40]])
    mean = np.asarray(frames.observation)[..., : agent.latents]
    allowed = mean[np.asarray(frames.is_first) & held]
    begin = jax.jit(agent.begin, static_argnums=2)
    start = begin(state, jax.random.key(0), 400)
    distance = abs(np.asarray(start.z)[:, None] - allowed).max(axis=-1)
    nearest, counts = np.unique(distance.argmin(axis=1), return_counts=True)
    assert distance.min(axis=1).max() < 1e-5
    assert len(nearest) == len(allowed) and counts.max() < 4 * 400 / len(allowed)
    assert start.first.all() and not start.hidden.any() and not start.cell.any()
    forgotten = frames.replace(is_first=jnp.zeros_like(frames.is_first))
    state = state.replace(codes=state.codes.replace(frames=forgotten))
    anywhere = begin(state, jax.random.key(0), 400)
    distance = abs(np.asarray(anywhere.z)[:, None] - mean[held])
    assert distance.max(axis=-1).min(axis=1).max() < 1e-5


def slope(self, params, key, action, latent):
    """A perfect M: an action moves z, which drifts away; best is to stay near 0."""
    z = latent.z.at[..., 0].multiply(1.05).at[..., 0].add(0.5 * action[..., 0])
    z += 0.05 * jax.random.normal(key, z.shape)
    return Prediction(-jnp.square(z[..., 0]), jnp.full(z.shape[:-1], 0.99)), latent.replace(z=z)


def test_a_controller_evolves_in_dreams_of_a_perfect_world(monkeypatch):
    monkeypatch.setattr(VisionMemory, "step", slope)
    sizes = {"population": 16, "episodes": 8, "dreamt_steps": 25, "check_episodes": 64}
    agent = small(generations=40, check_every=40, **sizes)
    state = seen(agent)
    fitness = jax.jit(agent.fitness, static_argnums=3)
    (before, *_), _ = fitness(state, jax.random.key(1), jnp.zeros((1, 8)), 256)
    state, metrics = jax.jit(agent.evolve)(state, jax.random.key(2))
    (after, *_), _ = fitness(state, jax.random.key(1), state.params["controller"][None], 256)
    assert before < -30 and after > -6
    assert state.params["controller"][0] < -1.0  # against the drift
    assert metrics["dream_return"] > before
    np.testing.assert_allclose(after, metrics["dream_return_champion"], atol=3.0)


def test_all_candidates_have_the_same_luck(monkeypatch):
    monkeypatch.setattr(VisionMemory, "step", slope)
    agent = small()
    twice = jnp.float32(np.random.default_rng(0).normal(size=8)) * jnp.ones((2, 1))
    (one, other), steps = agent.fitness(seen(agent), jax.random.key(0), twice, 3)
    assert one == other and steps == agent.dreamt_steps


def test_who_acts_yields_to_the_fitter_alone(monkeypatch):
    monkeypatch.setattr(VisionMemory, "step", slope)
    agent = small(sigma=1e-6)
    state = seen(agent)
    good, bad = jnp.zeros(8).at[0].set(-2.0), jnp.ones(8)
    evolve = jax.jit(agent.evolve)
    for acts, mean in ((good, bad), (bad, good)):
        search = state.search.replace(mean=mean)
        params = state.params | {"controller": acts}
        after, metrics = evolve(state.replace(search=search, params=params), key(0))
        np.testing.assert_allclose(after.params["controller"], good, atol=1e-4)
        assert metrics["dream_return_champion"] >= metrics["dream_return_mean"]
    none = jnp.full(8, jnp.nan)
    after, _ = evolve(state.replace(search=state.search.replace(mean=none)), key(0))
    np.testing.assert_array_equal(after.params["controller"], state.params["controller"])


def test_the_steps_of_m_shrink_by_one_factor_and_no_element_of_its_gradient_is_large():
    agent = small(memory_updates=4, memory_rate=1e-2, memory_final_rate=1e-4, clip=0.5)
    optimiser, rng = agent.optimisers["memory"], np.random.default_rng(0)
    state, rate, mean, square = optimiser.init(jnp.zeros(8)), 1e-2, 0.0, 0.0
    for t in range(1, 8):
        gradient = rng.normal(size=8)
        found, state = optimiser.update(jnp.float32(gradient), state)
        gradient = np.clip(gradient, -0.5, 0.5)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        step = mean / (1 - 0.9**t) / np.sqrt(square / (1 - 0.999**t))
        np.testing.assert_allclose(found, -rate * step, rtol=1e-4, atol=1e-8)
        rate = max(rate / 100**0.25, 1e-4)


def test_with_another_v_codes_are_forgotten_and_m_and_the_search_begin_anew():
    agent = small()
    state = seen(agent)
    for _ in range(3):
        state, _ = jax.jit(agent.learn_memory)(state, key(2))
    state, _ = jax.jit(agent.evolve)(state, key(3))
    after, _ = jax.jit(agent.forget)(state, key(1))
    assert (after.codes.size == 0).all()
    assert any(leaf.any() for leaf in jax.tree.leaves(state.optimiser["memory"]))
    assert not any(leaf.any() for leaf in jax.tree.leaves(after.optimiser["memory"]))
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    np.testing.assert_array_equal(after.search.mean, state.params["controller"])
    np.testing.assert_allclose(after.search.std, agent.sigma)


@pytest.mark.parametrize("name", ["CartPole-pixels", "CarTrack-v0"])
def test_outside_controllers_earn_what_episodes_pay(name):
    """Those who always do the same, against a loop over single steps."""
    env = envs.make(name, action_repeat=2)
    agent = agents.make("world-models", env, "xs", **(SMALL | {"dreamt_steps": 30}))
    outputs = agent.layers[-1]
    says = np.float32([[0.3, -0.2, 0.1][:outputs], [-0.5, 1.0, 0.0][:outputs]])
    controllers = jnp.zeros((2, agent.evolution.dims)).at[:, -outputs:].set(says)
    state, reset, step = fresh(agent), jax.jit(env.reset), jax.jit(env.step)
    evaluate = jax.jit(agent.fitness, static_argnums=(3, 4))
    fitness, steps = evaluate(state, key(0), controllers, 3, "real")

    start_key, _ = jax.random.split(key(0))
    reset_key, _ = jax.random.split(start_key)
    expected, longest = np.zeros((2, 3)), 0
    for i, said in enumerate(says):
        action = said.argmax() if isinstance(agent.spec.action, Discrete) else np.tanh(said)
        for j, start in enumerate(jax.random.split(reset_key, 3)):
            env_state, _ = reset(start)
            for time in range(1, 31):
                env_state, _, after = step(key(1), env_state, action)
                expected[i, j] += after.reward
                longest = max(longest, time)
                if after.is_last:
                    break
    np.testing.assert_allclose(fitness, expected.mean(axis=1), rtol=1e-5)
    assert steps == longest


def test_a_controller_evolves_outside_too():
    agent = small(population=8, episodes=2, dreamt_steps=10, check_every=2, real_generations=2)
    state = fresh(agent)
    learnt, metrics = jax.jit(agent.evolve_outside)(state, key(0))
    assert metrics["real_steps"] == 10 and metrics["real_return_mean"] < 0
    assert metrics["real_return_champion"] >= metrics["real_return_mean"]
    assert (learnt.search.mean != 0.0).any()


def test_what_is_kept_are_pictures_and_their_codes():
    """Ends too, which nobody acts upon."""
    env, agent = envs.make("CartPole-pixels"), small("CartPole-pixels")
    state = program.start(agent, env, key(0))
    phase, *_ = agent.phases(200)
    collect = jax.jit(partial(program.collect, agent, env, phase))
    rollouts, replay = [], sequence.init(agent.spec, 2, 200)
    for _ in range(3):
        state, rollout, _ = collect(state)
        state = state.replace(agent=agent.observe(state.agent, rollout))
        replay = sequence.add(replay, rollout.replace(extras=None))
        rollouts.append(rollout.timestep.observation.reshape(-1, 64, 64, 3))
    assert replay.frames.is_last.any()
    pictures = np.concatenate(rollouts)[-50:]
    order = np.arange(120 - 50, 120) % 50
    np.testing.assert_array_equal(state.agent.pictures.items[order], pictures)
    for stream, size in enumerate(np.asarray(replay.size)):
        seen = replay.frames.observation[stream, :size]
        code = agent.world.encode(state.agent.params["world"], seen)
        expected = np.concatenate([code.mean, code.log_var], axis=-1)
        np.testing.assert_allclose(
            state.agent.codes.frames.observation[stream, :size], expected, atol=1e-5
        )
    same = jax.tree.map(
        lambda a, b: bool((a == b).all()),
        replay.frames.replace(observation=None),
        state.agent.codes.frames.replace(observation=None),
    )
    assert all(jax.tree.leaves(same))


def key(seed):
    return jax.random.key(seed)


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_plan_is_see_then_foretell_then_evolve(rounds):
    agent = small(rounds=rounds)
    plan = agent.phases(2000)
    assert sum(phase.iterations * phase.collect for phase in plan) * 2 <= 2000
    assert [phase.learn for phase in plan] == rounds * [
        "",
        "learn_vision",
        "forget",
        "",
        "learn_memory",
        "evolve",
    ]
    assert len({phase.name for phase in plan}) == len(plan)
    look, vision, forget, collect, memory, controller = plan[-6:]
    assert look.collect == collect.collect == ROLLOUT
    assert look.iterations == 2  # enough for 50 pictures
    assert look.iterations + collect.iterations == 2000 // (rounds * 2 * ROLLOUT)
    assert (vision.iterations, forget.iterations, memory.iterations) == (4, 1, 4)
    assert controller.iterations * agent.check_every == agent.generations
    assert not any(phase.collect for phase in (vision, forget, memory, controller))
    untrained = small(rounds=rounds, memory_updates=0, generations=0, real_generations=6)
    assert [phase.learn for phase in untrained.phases(2000)] == rounds * [
        "",
        "learn_vision",
        "forget",
        "",
        "evolve_outside",
    ]
    with pytest.raises(UsageError, match=f"at least {120 * rounds} steps"):
        agent.phases(120 * rounds - 1)


def test_everything_is_learnt():
    env, agent = envs.make("Pendulum-pixels"), small()
    state, metrics = jax.jit(partial(program.train, agent, env, steps=200))(key(0))
    start = fresh(agent).params
    for part in ("world", "controller"):
        moved = jax.tree.map(
            lambda new, old: bool((new != old).any()), state.agent.params[part], start[part]
        )
        assert all(jax.tree.leaves(moved))
    assert set(metrics) == {phase.name for phase in agent.phases(200)}
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(metrics))


def test_a_lane_is_the_single_run_up_to_rounding(monkeypatch):
    """With the diagonal alone: where a covariance is still round, rounding turns its axes."""
    monkeypatch.setattr(VisionMemory, "step", slope)
    agent = small(separable=True)

    def evolve(key):
        return agent.evolve(seen(agent), key)[0].params["controller"]

    keys = jax.random.split(key(0), 3)
    lanes, single = jax.jit(jax.vmap(evolve))(keys), jax.jit(evolve)(keys[1])
    np.testing.assert_allclose(lanes[1], single, atol=1e-4)
    assert not np.allclose(lanes[0], single, atol=0.01)


def test_discrete_actions_are_the_largest_of_what_the_controller_says():
    agent = small("CartPole-pixels", bias=True)
    assert agent.evolution.dims == 8 * 2
    latent = latents(agent, 5)
    controller = jnp.zeros(16).at[-1].set(1.0)  # the second action's bias
    assert (agent.decide(controller, latent) == 1).all()
    noise = jnp.array([[2.0, 0.0]] * 5)
    assert (agent.decide(controller, latent, noise) == 0).all()
    assert isinstance(agent.spec.action, Discrete)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("Pendulum-v1", {}, r"pictures of shape \(64, 64, C\)"),
        ("Pendulum-pixels", {"sees": "h"}, "sees is one of z, zh, zch; got 'h'"),
        ("Pendulum-pixels", {"population": 3}, "population is 4 or more"),
        ("Pendulum-pixels", {"capacity": 20}, "capacity 20 over 2 environments leaves 10"),
        ("Pendulum-pixels", {"rounds": 0}, "rounds is at least 1"),
        ("Pendulum-pixels", {"mixtures": 0}, "mixtures is at least 1"),
        ("Pendulum-pixels", {"temperature": 0.0}, "temperature is above 0"),
        ("Pendulum-pixels", {"persistence": 1.5}, "persistence is a share"),
        ("Pendulum-pixels", {"generations": 5}, "multiple of check_every, 2; got 5"),
        ("Pendulum-pixels", {"pictures": 39}, "at least 20 for each of 2 environments; got 39"),
        pytest.param(
            "CarRacing-pixels", {"real_generations": 4}, "is stepped by Python", marks=box2d
        ),
    ],
)
def test_what_it_cannot_do_is_refused(name, fields, message):
    with pytest.raises(UsageError, match=message):
        small(name, **fields)
