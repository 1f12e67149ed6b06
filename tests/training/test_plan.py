"""Where a run stops: fixed by its phases, complete, and in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamerzero.training.plan import LOGS, stops
from dreamerzero.types import Phase, UsageError

phase = st.builds(
    Phase,
    name=st.just("phase"),
    iterations=st.integers(0, 400),
    collect=st.integers(0, 7),
    learn=st.sampled_from(["", "learn"]),
    repeats=st.integers(1, 3),
)


@given(st.lists(phase, min_size=1, max_size=4), st.integers(1, 5), st.integers(1, 900))
def test_stops_cover_the_plan(phases, steps_each, eval_every):
    total = sum(phase.iterations for phase in phases)
    if not total:
        with pytest.raises(UsageError, match="steps"):
            stops(phases, steps_each, eval_every)
        return
    plan = stops(phases, steps_each, eval_every)
    # An independent count, one iteration after the other.
    at, step, updates = {0: (0, 0)}, 0, 0
    marks, evaluations = eval_every, set()
    idle = not any(phase.iterations * phase.collect for phase in phases)
    for each in phases:
        for _ in range(each.iterations):
            step += each.collect * steps_each
            updates += each.repeats if each.learn else 0
            at[len(at)] = step, updates
            place = len(at) - 1 if idle else step  # who takes no steps counts iterations
            if place >= marks:
                evaluations.add(len(at) - 1)
                marks = (place // eval_every + 1) * eval_every
    assert [stop.done for stop in plan] == sorted({stop.done for stop in plan})
    assert all((stop.step, stop.updates) == at[stop.done] for stop in plan)
    assert {stop.done for stop in plan if stop.evaluate} == evaluations | {total}
    assert plan[-1].done == total
    assert len(plan) <= 2 * LOGS + 60 * len(phases) + len(evaluations)
    ends = [sum(p.iterations for p in phases[: i + 1]) for i in range(len(phases))]
    assert {*ends} - {0} <= {stop.done for stop in plan}  # no chunk spans two phases
