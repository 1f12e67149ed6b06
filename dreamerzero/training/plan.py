"""Where a run stops to log and to evaluate: fixed by its plan, never by the clock."""

from __future__ import annotations

from typing import NamedTuple

from dreamerzero.types import UsageError

LOGS = 200  # rows of metrics in a run, about
LEARNING_LOGS = 50  # in a phase that takes no steps


class Stop(NamedTuple):
    """The state of a run after `iteration` iterations of phase number `phase`."""

    phase: int
    iteration: int
    done: int  # iterations since the run began
    step: int  # environment steps since the run began, of one seed
    updates: int  # calls of the agent's learning methods since the run began, of one seed
    evaluate: bool


BEGINNING = Stop(0, 0, 0, 0, 0, False)


def stops(phases, steps_each: int, eval_every: int) -> tuple[Stop, ...]:
    """Every point of a run at which a row is logged, in order; the last one always evaluates.

    Args:
      phases: the agent's plan, `Phase`s.
      steps_each: environment steps taken for each that a phase collects: in all parallel
        environments, with every action repeated.
      eval_every: environment steps between two evaluations; iterations, where none are taken.
    Raises:
      UsageError: if the plan is empty.
    """
    total = sum(phase.iterations * phase.collect for phase in phases) * steps_each
    if not total:
        return _without_steps(phases, eval_every)
    plan, done, step, updates = [], 0, 0, 0
    for index, phase in enumerate(phases):
        taken = phase.collect * steps_each  # an iteration
        log_every = max(1, total // LOGS // taken if taken else phase.iterations // LEARNING_LOGS)
        eval_iterations = {
            -(-(mark - step) // taken)  # the first iteration to reach the mark
            for mark in range(eval_every, total + 1, eval_every)
            if taken and step < mark <= step + phase.iterations * taken
        }
        ends = {phase.iterations} if phase.iterations else set()
        for iteration in sorted(
            {*range(log_every, phase.iterations + 1, log_every)} | eval_iterations | ends
        ):
            plan.append(
                Stop(
                    phase=index,
                    iteration=iteration,
                    done=done + iteration,
                    step=step + iteration * taken,
                    updates=updates + iteration * phase.updates,
                    evaluate=iteration in eval_iterations,
                )
            )
        done += phase.iterations
        step += phase.iterations * taken
        updates += phase.iterations * phase.updates
    return (*plan[:-1], plan[-1]._replace(evaluate=True))


def _without_steps(phases, eval_every: int) -> tuple[Stop, ...]:
    """The stops of phases that only learn: as if each of their iterations took one step."""
    if not any(phase.iterations for phase in phases):
        raise UsageError("The run has no iteration at all: give more --steps.")
    plan = stops([phase._replace(collect=1) for phase in phases], 1, eval_every)
    return tuple(stop._replace(step=0) for stop in plan)
