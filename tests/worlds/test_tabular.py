import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero.types import Box, Discrete, EnvSpec, UsageError
from dreamerzero.worlds import tabular

SPEC = EnvSpec("toy", Discrete(5), Discrete(3))


def fill(table, transitions):
    columns = [jnp.asarray(column) for column in zip(*transitions, strict=True)]
    return jax.lax.scan(lambda t, x: (tabular.remember(t, *x), None), table, tuple(columns))[0]


def random_transitions(num, seed=0):
    rng = np.random.default_rng(seed)
    state, action, successor = (rng.integers(high, size=num) for high in (5, 3, 5))
    reward = successor * 0.5 + rng.integers(2, size=num)
    return list(
        zip(state, action, reward.astype(np.float32), successor, successor == 4, strict=True)
    )


def test_one_place_keeps_the_last_outcome():
    transitions = random_transitions(60)
    table = fill(tabular.Tabular(SPEC).init(), transitions)
    last = {(s, a): rest for s, a, *rest in transitions}
    times = {(s, a): step for step, (s, a, *_) in enumerate(transitions, start=1)}
    for s in range(5):
        for a in range(3):
            assert table.tried[s, a] == ((s, a) in last)
            reward, successor, terminated = last.get((s, a), (0.0, s, False))
            assert table.successor[s, a, 0] == successor
            assert table.reward[s, a, 0] == reward
            assert table.terminated[s, a, 0] == terminated
            assert table.tried_at[s, a] == times.get((s, a), 0)
    order = list(dict.fromkeys(s for s, *_ in transitions))
    assert table.clock == 60 and table.num_seen == len(order)
    assert table.states[: len(order)].tolist() == order


def test_counts_are_the_empirical_distribution():
    transitions = random_transitions(200)
    table = fill(tabular.Tabular(SPEC, outcomes=5).init(), transitions)
    outcomes = tabular.recall(table, ...)
    for s in range(5):
        for a in range(3):
            seen = [t for t in transitions if t[:2] == (s, a)]
            for successor in range(5):
                rewards = [t[2] for t in seen if t[3] == successor]
                place = np.asarray(
                    (outcomes.successor[s, a] == successor) & (table.count[s, a] > 0)
                )
                assert place.sum() == bool(rewards)
                assert outcomes.probability[s, a][place].sum() == pytest.approx(
                    len(rewards) / len(seen)
                )
                if rewards:
                    reward = outcomes.reward[s, a][place].item()
                    assert reward == pytest.approx(np.mean(rewards), rel=1e-5)
                    assert outcomes.terminated[s, a][place].item() == (successor == 4)


def test_the_rarest_outcome_gives_way():
    went_to = [1, 1, 1, 2, 3, 3]  # two places: 1 stays, 3 takes the place of 2
    table = fill(
        tabular.Tabular(SPEC, outcomes=2).init(), [(0, 0, 1.0, after, False) for after in went_to]
    )
    assert table.successor[0, 0].tolist() == [1, 3]
    assert table.count[0, 0].tolist() == [3, 2]


def test_an_untried_pair_leads_back_without_reward():
    outcomes = tabular.recall(tabular.Tabular(SPEC, outcomes=3).init(), (2, 1))
    assert outcomes.probability.tolist() == [1.0, 0.0, 0.0]
    assert outcomes.successor[0] == 2 and outcomes.reward[0] == 0 and not outcomes.terminated[0]


def test_pairs_are_uniform_over_states_then_over_actions():
    transitions = [(3, 0, 0.0, 1, False), (3, 2, 0.0, 1, False), (1, 1, 0.0, 3, False)]
    table = fill(tabular.Tabular(SPEC).init(), transitions)

    def frequencies(untried):
        draws = tabular.sample_pairs(table, jax.random.key(0), 40_000, untried)
        return np.histogram2d(*map(np.asarray, draws), bins=[range(6), range(4)])[0] / 40_000

    expected = np.zeros((5, 3))
    expected[3, [0, 2]], expected[1, 1] = 0.25, 0.5
    np.testing.assert_allclose(frequencies(False), expected, atol=0.01)
    expected[[3, 1]] = 1 / 6
    np.testing.assert_allclose(frequencies(jnp.bool_(True)), expected, atol=0.01)


def test_step_imagines_by_the_counts():
    world = tabular.Tabular(SPEC, outcomes=3, discount=0.9)
    went_to = [1, 1, 1, 4]
    table = fill(world.init(), [(0, 0, float(s == 4), s, s == 4) for s in went_to])
    latent = world.observe(table, None, world.initial(4000), None, jnp.zeros(4000, jnp.int32), None)
    prediction, after = world.step(table, jax.random.key(1), jnp.zeros(4000, jnp.int32), latent)
    assert float((after == 4).mean()) == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(prediction.reward, after == 4)
    np.testing.assert_allclose(prediction.discount, np.where(after == 4, 0.0, 0.9))


def test_bounded_integers_are_read_in_mixed_radix():
    spec = EnvSpec("grid", Box((2, 2), "int32", (0.0, -1.0, 5.0, 0.0), (3.0, 1.0, 5.0, 1.0)), None)
    assert tabular.num_states(spec) == 4 * 3 * 1 * 2
    grids = [[[a, b], [5, d]] for a in range(4) for b in (-1, 0, 1) for d in (0, 1)]
    numbers = tabular.encode(spec, jnp.array(grids, jnp.int32))
    np.testing.assert_array_equal(numbers, np.arange(24))
    assert tabular.encode(spec, jnp.array(grids[7])) == 7
    flags = EnvSpec("flags", Box((3,), "bool", 0.0, 1.0), None)
    assert tabular.encode(flags, jnp.array([[True, False, True]])).tolist() == [5]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (Box((4,), "float32", -1.0, 1.0), "integers; those of odd are float32"),
        (Box((2,), "int32"), "finite bounds; odd declares"),
    ],
)
def test_what_has_no_table_is_refused(box, message):
    with pytest.raises(UsageError, match=message):
        tabular.num_states(EnvSpec("odd", box, Discrete(2)))
