from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import agents, envs, training
from dreamerzero.agents.dreamer import Dreamer
from dreamerzero.types import Box, Discrete, EnvSpec, UsageError

TINY = {
    "num_envs": 4,
    "batch_size": 4,
    "batch_length": 8,
    "capacity": 400,
    "imagination": 5,
    "deter": 32,
    "hidden": 16,
    "stoch": 4,
    "classes": 4,
    "blocks": 4,
    "units": 16,
    "bins": 15,
    "bin_limit": 5.0,
}
WALKER = EnvSpec("walker", Box((24,)), Box((6,), low=-1.0, high=1.0))


def tiny(env, **fields):
    return agents.make("dreamer", env, "xs", **(TINY | fields))


def test_1m_has_the_published_number_of_parameters():
    agent = Dreamer(spec=WALKER, **(Dreamer.PRESETS["1m"] | {"capacity": 2048}))
    state = jax.eval_shape(agent.init, jax.random.key(0))
    learnt = [state.params[name] for name in ("world", "actor", "critic")]
    assert sum(leaf.size for leaf in jax.tree.leaves(learnt)) == 640_867


def test_nothing_in_the_state_is_stored_twice():
    """A buffer that appears twice could not be donated."""
    env = envs.make("CartPole-v1")
    state = tiny(env).init(jax.random.key(0))
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state) if leaf.size > 1]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("ratio", [0.5, 4.0, 32.0, 48.0, 256.0])
def test_the_plan_meets_the_train_ratio_and_counts_prefill(ratio):
    agent = tiny(envs.make("CartPole-v1"), train_ratio=ratio)
    prefill, train = agent.phases(2000)
    steps = (prefill.iterations * prefill.collect + train.iterations * train.collect) * 4
    assert 2000 - train.collect * 4 < steps <= 2000
    assert prefill.iterations * prefill.collect >= agent.batch_length
    replayed = train.repeats * agent.replayed_per_update
    assert replayed == ratio * train.collect * agent.num_envs


def test_acts_within_the_action_space_and_greedily_on_request():
    for name in ("CartPole-v1", "Pendulum-v1"):
        env = envs.make(name)
        agent = tiny(env)
        params = agent.init(jax.random.key(0)).params
        _, timestep = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 64))
        act = partial(agent.act, params, timestep=timestep, memory=agent.memory(64))
        greedy = act(jax.random.key(2), explore=False).action
        explored = act(jax.random.key(2), explore=True).action
        assert greedy.shape == explored.shape == (64, *env.spec.action.shape)
        assert greedy.dtype == env.spec.action.dtype
        if isinstance(env.spec.action, Discrete):
            assert set(np.unique(explored)) == {0, 1}
        else:
            assert np.abs(greedy).max() < 0.2 < explored.std()


def test_changing_a_number_does_not_recompile():
    env = envs.make("CartPole-v1")
    traces = []

    @jax.jit
    def init(agent, key):
        traces.append(1)
        return agent.init(key).params

    for rate in (1e-3, 1e-4):
        init(tiny(env, learning_rate=rate, entropy=rate), jax.random.key(0))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"deter": 30}, "multiple of blocks"),
        ({"blocks": 0}, "blocks is at least 1"),
        ({"imagination": 0}, "imagination is at least 1"),
        ({"bins": 16}, "odd"),
        ({"capacity": 32}, "capacity"),
        ({"conv": "poll"}, "conv is one of pool, strided; got 'poll'"),
        ({"units": 1.5}, "units wants int"),
        ({"unit": 3}, "units"),
    ],
)
def test_impossible_fields_are_refused_in_one_sentence(fields, message):
    with pytest.raises(UsageError, match=message):
        tiny(envs.make("CartPole-v1"), **fields)


def test_the_blocks_of_a_decoder_of_pictures_have_whole_channels():
    spec = EnvSpec("pictures", Box((64, 64, 3), "uint8", 0.0, 255.0), Discrete(2))
    agent = Dreamer(spec=spec, **(Dreamer.PRESETS["xs"] | {"depth": 3}))
    with pytest.raises(UsageError, match=r"4 · depth \(3\) must be a multiple of blocks \(8\)"):
        agent.check()
    agent.replace(depth=2).check()
    agent.replace(depth=3, spec=WALKER).check()


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (-np.inf, np.inf), ((0.0,) * 20, (1.0,) * 20)])
def test_images_without_a_range_are_refused(bounds):
    spec = EnvSpec("grids", Box((4, 5), "float32", *bounds), Discrete(2))
    with pytest.raises(UsageError, match="two finite numbers"):
        Dreamer(spec=spec, **Dreamer.PRESETS["xs"]).check()


def test_too_few_steps_are_refused_with_the_least_number():
    with pytest.raises(UsageError, match="at least"):
        tiny(envs.make("CartPole-v1")).phases(10)


def test_a_lane_is_the_single_run_up_to_rounding():
    """Not to the bit under a plain `vmap`: XLA sums a batch of matrix products in another order
    than one product, and some dozens of updates later such a difference decides an action."""
    env = envs.make("CartPole-v1")
    agent = tiny(env)
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    run = partial(training.train, agent, env, steps=80)
    lanes, metrics = jax.vmap(run)(keys)
    single, alone = run(keys[1])
    lane = jax.tree.map(lambda leaf: leaf[1], lanes.agent)
    np.testing.assert_array_equal(lane.replay.frames.action, single.agent.replay.frames.action)
    for a, b in zip(
        jax.tree.leaves(lane.params), jax.tree.leaves(single.agent.params), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-4)
    np.testing.assert_allclose(
        metrics["train"]["grad_norm/world"][1], alone["train"]["grad_norm/world"], rtol=1e-3
    )
    assert not np.allclose(
        metrics["train"]["grad_norm/world"][0], alone["train"]["grad_norm/world"], rtol=1e-3
    )
