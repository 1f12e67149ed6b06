from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import agents, envs
from dreamerzero.envs import probes
from dreamerzero.training import program
from dreamerzero.types import UsageError
from dreamerzero.worlds import tabular

MAZE = envs.make("DynaMaze-v0")


def dyna(env=MAZE, **fields):
    return agents.make("dyna", env, **fields)


@partial(jax.jit, static_argnames="steps")
def train(agent, env, key, steps):
    return program.train(agent, env, key, steps)


@partial(jax.jit, static_argnames="steps")
def train_seeds(agent, env, keys, steps):
    return jax.vmap(lambda key: program.train(agent, env, key, steps))(keys)


def seeds(num):
    return jax.vmap(jax.random.key)(jnp.arange(num))


# ---- against loops in numpy, fed with the choices that were made ----


@partial(jax.jit, static_argnames="steps")
def recorded(agent, env, key, steps):
    """A run that also tells its real transitions, the pairs it planned with, and every Q."""
    (phase,) = agent.phases(steps)

    def step(state, key):
        collect_key, learn_key = jax.random.split(key)
        state, rollout, _ = program.collect(agent, env, phase, state.replace(key=collect_key))
        learner = agent.observe(state.agent, rollout)
        pair_key, outcome_key = jax.random.split(learn_key)
        pairs = tabular.sample_pairs(learner.table, pair_key, agent.planning_steps, agent.kappa > 0)
        drawn = tabular.sample(outcome_key, tabular.recall(learner.table, pairs))
        learner, _ = agent.learn(learner, learn_key)
        after = rollout.next_timestep
        transition = (
            rollout.timestep.observation,
            rollout.action,
            after.reward,
            after.observation,
            after.terminated,
        )
        transition = jax.tree.map(lambda x: x[0, 0], transition)
        return state.replace(agent=learner), (transition, pairs, drawn, learner.params)

    return jax.lax.scan(step, program.start(agent, env, key), jax.random.split(key, steps))[1]


def steps_of(record):
    """One tuple of plain numbers and arrays for each step."""
    transition, pairs, drawn, q = jax.tree.map(np.asarray, record)
    for i in range(len(q)):
        s, a, r, after, end = (column[i].item() for column in transition)
        planned = list(zip(pairs[0][i].tolist(), pairs[1][i].tolist(), strict=True))
        outcome = zip(drawn.reward[i, :, 0], drawn.successor[i, :, 0], strict=True)
        yield (s, a, r, after, end), planned, list(outcome), q[i]


def dyna_q_loop(record, shape, dtype, learning_rate, discount, kappa, kind):
    """Dyna-Q, Dyna-Q+ and the stochastic models as a plain loop; yields Q after every step."""
    number = dtype
    alpha, gamma, q = number(learning_rate), number(discount), np.zeros(shape, dtype)
    model, tried_at = {}, {}

    def target(r, after, end):
        return number(r) + (number(0) if end else gamma * q[after].max())

    for clock, (transition, planned, drawn, q_ours) in enumerate(steps_of(record), start=1):
        s, a, r, after, end = transition
        q[s, a] += alpha * (target(r, after, end) - q[s, a])
        outcomes = model.setdefault((s, a), [])
        outcomes[:] = ([] if kind == "deterministic" else outcomes) + [(r, after, end)]
        tried_at[s, a] = clock
        for pair, (r_drawn, after_drawn) in zip(planned, drawn, strict=True):
            assert any(pair[0] == state for state, _ in model)
            assert pair in model or kappa > 0
            remembered = model.get(pair, [(0.0, pair[0], False)])
            if kind == "sampled":
                remembered = [o for o in remembered if o[:2] == (r_drawn, after_drawn)][:1]
                assert remembered
            bonus = number(kappa) * np.sqrt(number(clock - tried_at.get(pair, 0)))
            expected = sum((target(*o) for o in remembered), number(0)) / number(len(remembered))
            q[pair] += alpha * (bonus + expected - q[pair])
        yield q, q_ours


@pytest.mark.parametrize("planning_steps", [0, 7])
def test_dyna_q_is_bitwise_the_loop(planning_steps):
    # With α = 1 and γ = ½ nothing is rounded away by fusing, so float32 must agree to the bit.
    agent = dyna(planning_steps=planning_steps, learning_rate=1.0, discount=0.5)
    record = recorded(agent, MAZE, jax.random.key(3), 2500)
    assert record[0][4].sum() >= 2  # the goal was reached
    loop = dyna_q_loop(record, (54, 4), np.float32, 1.0, 0.5, 0.0, "deterministic")
    for expected, q in loop:
        np.testing.assert_array_equal(q, expected)


@pytest.mark.parametrize(
    ("env", "model", "kappa"),
    [
        ("DynaMaze-v0", "deterministic", 0.0),
        ("DynaMaze-v0", "deterministic", 1e-3),
        ("FrozenLake-misc", "expected", 0.0),
        ("FrozenLake-misc", "sampled", 0.0),
        ("FrozenLake-misc", "expected", 1e-3),
    ],
)
def test_variants_follow_the_loop(env, model, kappa):
    env = envs.make(env)
    agent = dyna(env, planning_steps=5, model=model, kappa=kappa, discount=0.9)
    record = recorded(agent, env, jax.random.key(0), 2000)
    shape = record[-1].shape[1:]
    loop = dyna_q_loop(record, shape, np.float64, 0.1, 0.9, kappa, model)
    for step, (expected, q) in enumerate(loop):
        if step % 100 == 99:
            np.testing.assert_allclose(q, expected, rtol=1e-3, atol=1e-6)
    assert np.abs(expected).max() > 0


def sweeping_loop(record, shape, learning_rate, discount, theta, n, dtype):
    """Prioritised sweeping (Sutton & Barto 2018, p. 170) with a dict for a queue."""
    q, model, queue = np.zeros(shape, dtype), {}, {}
    alpha, gamma = dtype(learning_rate), dtype(discount)

    def error(pair):
        r, after, end = model[pair]
        return dtype(r) + (dtype(0) if end else gamma * q[after].max()) - q[pair]

    def push(pair):
        if abs(error(pair)) > theta:
            queue[pair] = max(queue.get(pair, dtype(0)), abs(error(pair)))

    for (s, a, r, after, end), _, _, q_ours in steps_of(record):
        model[s, a] = r, after, end
        push((s, a))
        for _ in range(n):
            if not queue:
                break
            pair = max(sorted(queue), key=queue.get)  # of equals the first in the table
            del queue[pair]
            q[pair] += alpha * error(pair)
            for earlier, (_, leads_to, _) in model.items():
                if leads_to == pair[0]:
                    push(earlier)
        yield q, q_ours


def test_prioritised_sweeping_is_bitwise_the_loop():
    fields = {"learning_rate": 1.0, "discount": 0.5, "theta": 2.0**-20}
    agent = dyna(planning_steps=4, sampling="prioritised", **fields)
    record = recorded(agent, MAZE, jax.random.key(3), 2500)
    loop = sweeping_loop(record, (54, 4), n=4, dtype=np.float32, **fields)
    for expected, q in loop:
        np.testing.assert_array_equal(q, expected)
    assert (expected > 0).sum() > 50


def test_sweeping_with_means_is_sweeping_with_last_outcomes_where_nothing_is_left_to_chance():
    fields = {"learning_rate": 0.1, "discount": 0.5, "theta": 2.0**-20, "planning_steps": 4}
    last, mean = (
        recorded(dyna(sampling="prioritised", model=model, **fields), MAZE, jax.random.key(3), 2500)
        for model in ("deterministic", "expected")
    )
    np.testing.assert_allclose(last[-1], mean[-1], atol=1e-6)
    assert (last[-1][-1] > 0).sum() > 40


# ---- acting ----


def test_ties_are_broken_at_random_only_while_exploring():
    agent = dyna(epsilon=0.0)
    q = jnp.zeros((54, 4)).at[18].set(jnp.array([0.0, 1.0, 1.0, 0.5]))
    timestep = MAZE.reset(jax.random.key(0))[1]
    batch = jax.tree.map(lambda x: jnp.broadcast_to(x, 10_000), timestep)

    def frequencies(agent, explore):
        action = agent.act(q, jax.random.key(1), batch, None, explore=explore).action
        return np.bincount(action, minlength=4) / 10_000

    np.testing.assert_array_equal(frequencies(agent, False), [0, 1, 0, 0])
    np.testing.assert_allclose(frequencies(agent, True), [0, 0.5, 0.5, 0], atol=0.02)
    often = frequencies(agent.replace(epsilon=0.4), True)
    np.testing.assert_allclose(often, [0.1, 0.4, 0.4, 0.1], atol=0.02)


# ---- the numbers of the book's experiments, over 30 seeds ----


def episode_lengths(metrics, episodes=50):
    ended, length = (np.asarray(metrics[name]) for name in ("episodes", "episode_length"))
    return np.stack([row[end > 0][:episodes] for end, row in zip(ended, length, strict=True)])


@pytest.mark.parametrize(
    ("n", "steps", "bands", "last"),
    [
        (0, 14_000, {20: (25, 60), 30: (15, 26)}, 18.1),
        (5, 9000, {2: (80, 200), 3: (35, 90), 5: (18, 33), 8: (15, 22)}, 16.8),
        (50, 8000, {2: (25, 55), 3: (15, 22), 4: (15, 20)}, 16.7),
    ],
)
def test_convergence_on_the_dyna_maze(n, steps, bands, last):
    _, metrics = train_seeds(dyna(planning_steps=n), MAZE, seeds(30), steps)
    lengths = episode_lengths(metrics["train"])
    assert 500 < lengths[:, 0].mean() < 1400  # the uniform walk: 868.7
    for episode, (low, high) in bands.items():
        assert low < lengths[:, episode - 1].mean() < high
    assert lengths[:, -10:].mean() == pytest.approx(last, abs=0.7)


def rewards_at(name, marks, **fields):
    env = envs.make(name)
    _, metrics = train_seeds(dyna(env, learning_rate=1.0, **fields), env, seeds(30), marks[-1])
    reward = np.cumsum(metrics["train"]["episode_return"], axis=1).mean(0)
    return [reward[mark - 1] for mark in marks]


def test_blocking_maze():
    marks = 1000, 2000, 3000
    plain = rewards_at("BlockingMaze-v0", marks, planning_steps=10, kappa=0.0)
    bonus = rewards_at("BlockingMaze-v0", marks, planning_steps=10, kappa=1e-4)
    np.testing.assert_allclose(plain, [37, 47, 69], rtol=0.25)
    np.testing.assert_allclose(bonus, [62, 85, 138], rtol=0.1)


def test_shortcut_maze():
    marks = 3000, 6000
    plain = rewards_at("ShortcutMaze-v0", marks, planning_steps=50, kappa=0.0)
    bonus = rewards_at("ShortcutMaze-v0", marks, planning_steps=50, kappa=1e-3)
    np.testing.assert_allclose(plain, [126, 286], rtol=0.1)
    np.testing.assert_allclose(bonus, [136, 362], rtol=0.04)
    # Only the bonus finds the shortcut: 10 steps instead of 16.
    assert bonus[1] - bonus[0] > 1.25 * (plain[1] - plain[0])


def test_prioritised_sweeping_needs_fewer_updates():
    """Updates spent until the shortest path is (nearly) the greedy one."""
    checks = 60

    @jax.jit
    def spent(agent, keys):
        (phase,) = agent.phases(checks * 50)
        state = jax.vmap(partial(program.start, agent, MAZE))(keys)

        def path_is_short(q):
            maze = MAZE.environment
            successor = maze.successor[0, jnp.arange(54), jnp.argmax(q, axis=-1)]
            walk = lambda _, s: jnp.where(maze.goal[s], s, successor[s])  # noqa: E731
            return maze.goal[jax.lax.fori_loop(0, 16, walk, maze.start)]

        def check(carry, _):
            state, updates, found = carry
            step = jax.vmap(lambda s, _: program.iteration(agent, MAZE, phase, s), (0, None))
            state, metrics = jax.lax.scan(step, state, length=50)
            updates += jnp.where(found, 0.0, metrics["backups"].sum(0))
            return (state, updates, found | jax.vmap(path_is_short)(state.agent.params)), None

        zeros = jnp.zeros(keys.size)
        (_, updates, found), _ = jax.lax.scan(check, (state, zeros, zeros > 0), length=checks)
        return updates, found

    fields = {"planning_steps": 5, "learning_rate": 0.5}
    swept, found = spent(dyna(sampling="prioritised", **fields), seeds(30))
    assert found.mean() > 0.95 and swept.mean() < 1600
    uniform, _ = spent(dyna(**fields), seeds(30))
    assert uniform.mean() > 4 * swept.mean()


# ---- other environments ----


@pytest.mark.parametrize(
    "probe",
    [
        probes.ConstantProbe,
        probes.ObservationProbe,
        probes.DelayedProbe,
        probes.ActionProbe,
        probes.TruncationProbe,
        probes.BothEndsProbe,
    ],
)
def test_probes(probe):
    env = envs.make(probe(tabular=True))
    agent = dyna(env, discount=0.9, learning_rate=0.5, epsilon=0.5, planning_steps=5)
    state, _ = train(agent, env, jax.random.key(0), 500)
    values = state.agent.params.max(axis=-1)
    np.testing.assert_allclose(values, env.environment.values(0.9), rtol=1e-3)


def frozen_lake_values(policy=None, sweeps=2000):
    """P(goal) from every state of the slippery 4×4 lake: of `policy`, or of the best one."""
    tiles = "SFFFFHFHFFFHHFFG"
    moves = [(0, -1), (1, 0), (0, 1), (-1, 0)]
    value = np.array([tile == "G" for tile in tiles], float)
    for _ in range(sweeps):
        for s in [i for i, tile in enumerate(tiles) if tile in "SF"]:
            row, column = divmod(s, 4)
            there = [4 * min(max(row + dy, 0), 3) + min(max(column + dx, 0), 3) for dy, dx in moves]
            q = [np.mean([value[there[(a + d) % 4]] for d in (-1, 0, 1)]) for a in range(4)]
            value[s] = max(q) if policy is None else q[policy[s]]
    return value


@pytest.mark.parametrize("model", ["expected", "sampled"])
def test_stochastic_models_solve_frozen_lake(model):
    env = envs.make("FrozenLake-misc")
    rate = 0.1 if model == "expected" else 0.03  # a sampled target wanders with α
    agent = dyna(env, model=model, epsilon=0.5, discount=0.99, learning_rate=rate)
    state, _ = train(agent, env, jax.random.key(0), 10_000)
    policy = np.argmax(state.agent.params, axis=-1)
    best = frozen_lake_values()[0]
    assert best == pytest.approx(14 / 17, abs=1e-3)
    assert frozen_lake_values(policy)[0] > 0.9 * best


def test_four_rooms_through_the_discretiser():
    env = envs.make("FourRooms-misc")
    _, metrics = train(dyna(env), env, jax.random.key(0), 4000)
    ended, length = (np.asarray(metrics["train"][k]) for k in ("episodes", "episode_length"))
    assert length[2000:].sum() / ended[2000:].sum() < 60  # the uniform walk takes hundreds


def test_parallel_environments_learn_and_plan_as_much_for_each_step():
    agent = dyna(num_envs=4)
    (phase,) = agent.phases(6000)
    assert phase.iterations * phase.collect * agent.num_envs == 6000
    assert phase.repeats == agent.num_envs
    state, metrics = train(agent, MAZE, jax.random.key(0), 6000)
    assert state.agent.table.clock == 6000
    late = jax.tree.map(lambda x: x[1000:].sum(), metrics["train"])
    assert late["episode_length"] / late["episodes"] < 25


# ---- the program ----


def test_a_lane_is_the_single_run():
    agent = dyna(planning_steps=5)
    lanes = train_seeds(agent, MAZE, seeds(3), 800)
    single = train(agent, MAZE, jax.random.key(2), 800)
    for lane, alone in zip(jax.tree.leaves(lanes), jax.tree.leaves(single), strict=True):
        if jnp.issubdtype(lane.dtype, jax.dtypes.prng_key):
            lane, alone = jax.random.key_data(lane), jax.random.key_data(alone)
        np.testing.assert_array_equal(lane[2], alone)


def test_floats_are_leaves_and_do_not_recompile():
    traces = []

    @jax.jit
    def run(agent, key):
        traces.append(agent)
        return program.train(agent, MAZE, key, 20)[0].agent.params

    agent = dyna()
    for changed in (agent, agent.replace(kappa=1e-3, epsilon=0.2), agent.replace(theta=0.5)):
        run(changed, jax.random.key(0))
    assert len(traces) == 1
    rates = jnp.array([0.1, 0.5])
    stacked = jax.vmap(lambda rate: dyna(learning_rate=rate))(rates)
    axes = jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, stacked)
    q = jax.vmap(lambda a: program.train(a, MAZE, jax.random.key(0), 1500)[0].agent.params, (axes,))
    single = train(dyna(learning_rate=0.5), MAZE, jax.random.key(0), 1500)[0].agent.params
    np.testing.assert_array_equal(jax.jit(q)(stacked)[1], single)


@pytest.mark.parametrize(
    ("env", "fields", "message"),
    [
        ("Pendulum-v1", {}, "discrete actions"),
        ("CartPole-v1", {}, "integers; those of CartPole-v1 are float32"),
        ("DynaMaze-v0", {"sampling": "greedy"}, "uniform, prioritised; got 'greedy'"),
        ("DynaMaze-v0", {"model": "exact"}, "deterministic, expected, sampled"),
        ("DynaMaze-v0", {"planning_steps": -1}, "planning_steps is not negative"),
        ("DynaMaze-v0", {"epsilon": 1.5}, "epsilon is from 0.0 to 1.0; got 1.5"),
        ("DynaMaze-v0", {"num_envs": 0}, "num_envs is from 1"),
        ("DynaMaze-v0", {"sampling": "prioritised", "planning_steps": 0}, "planning_steps=0"),
        ("DynaMaze-v0", {"sampling": "prioritised", "model": "sampled"}, "model=sampled"),
        ("DynaMaze-v0", {"sampling": "prioritised", "kappa": 0.1}, "kappa > 0"),
        ("Breakout-MinAtar", {}, "Choose an agent with a neural network"),
    ],
)
def test_impossible_choices_are_refused(env, fields, message):
    with pytest.raises(UsageError, match=message):
        dyna(envs.make(env), **fields)
