"""The training program in chunks: the same numbers, with a life around them.

`advance` is `program.iteration` in a loop, over seeds side by side; `hosting.advance` is the same
where Python steps the environments. Between two calls, about a second apart, a run shows its
progress, writes its diary, evaluates, saves, and can be told to stop. What it computes and what it
logs depend on its plan alone, never on where the chunks were cut.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
import signal
import threading
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dreamerzero import __version__
from dreamerzero.envs import HostEnv, HostEnvs
from dreamerzero.replay import memory
from dreamerzero.training import (
    checkpoints,
    dreams,
    evaluation,
    files,
    games,
    hosting,
    metrics,
    offline,
    program,
)
from dreamerzero.training import config as configs
from dreamerzero.training.config import RunConfig
from dreamerzero.training.devices import describe
from dreamerzero.training.lanes import over_lanes, spread, update_lanes
from dreamerzero.training.plan import BEGINNING, Stop, stops
from dreamerzero.training.progress import Display
from dreamerzero.types import Metrics, Phase, UsageError, strong

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

SUMMARY = "summary.json"
CHUNK_S = 1.0  # seconds between two chances to show progress or to stop
SAVING_SHARE = 0.1  # of the time may go into checkpoints


class TrainingDiverged(RuntimeError):
    """A metric or a parameter is no longer a finite number."""


class Interrupted(Exception):
    """The run was told to stop, and has saved itself."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum = signum


@struct.dataclass
class Carry:
    """What is carried from chunk to chunk, leaves `[K, ...]`."""

    state: program.TrainState
    sums: Metrics  # of the metrics since the last logged row


@partial(jax.jit, static_argnames="phase", donate_argnames="carry")
def advance(agent, env, phase, carry: Carry, count) -> Carry:
    """`count` iterations of `phase` in every lane; traced, so that one program serves all."""

    def lane(carry):
        def step(_, carry):
            state, once = program.iteration(agent, env, phase, carry.state)
            return Carry(strong(state), jax.tree.map(jnp.add, carry.sums, once))

        return jax.lax.fori_loop(0, count, step, carry)

    return update_lanes(agent, lane, loops=True)(carry)


@jax.jit
def start(agent, env, keys) -> program.TrainState:
    """Every lane before its first step."""
    return strong(over_lanes(agent, partial(program.start, agent, env))(keys))


def run(
    agent,
    env,
    config: RunConfig,
    run_dir: str | Path,
    *,
    checkpoint_every: float = 30.0,
    tensorboard: bool = False,
    quiet: bool = False,
) -> dict:
    """Trains into a folder, from where an earlier call with the same config left off.

    Args:
      checkpoint_every: seconds between two checkpoints.
    Returns:
      What `summary.json` holds: `return_mean` and `return_std` are over the seeds' means of the
      last evaluation, `env_steps_per_s` counts all seeds and leaves compilation and evaluation out.
    Raises:
      UsageError: if the folder belongs to something else, another process trains in it, its files
        do not fit together, or the device is too small.
      TrainingDiverged: if a number is not finite any more; the last good checkpoint stays.
      Interrupted: after SIGINT or SIGTERM.
      OSError: if the folder cannot be written.
    """
    run_dir = Path(run_dir)
    resumes = _check_folder(run_dir, config)
    if (run_dir / SUMMARY).exists():
        return _read_summary(run_dir / SUMMARY)
    shapes = jax.eval_shape(start, agent, env, config.keys())
    size = memory.nbytes(shapes)
    memory.require(size, f"{config.num_seeds} × {config.agent} on {config.env}")
    if config.replay and not resumes:
        offline.check(shapes.agent, agent, env, config)
    with Display(quiet) as display, _signals() as signals:
        work = _Run(agent, env, config, run_dir, shapes, display, signals)
        run_dir.mkdir(parents=True, exist_ok=True)  # only now that the run is planned
        with _alone(run_dir):
            if not _check_folder(run_dir, config):  # another process may have begun one
                config.write(run_dir)
            display.say(_announcement(config, shapes, size))
            return work.go(checkpoint_every, tensorboard)


@dataclasses.dataclass
class Position:
    """What a checkpoint remembers beside the state. The rest follows from the plan."""

    done: int = 0  # iterations since the run began
    rows: int = 0  # of metrics.jsonl
    wall_s: float = 0.0  # of all processes that worked on this run
    train_s: float = 0.0  # in the training program, neither compiling nor evaluating
    row_s: float = 0.0  # the same, since the last row
    compile_s: float = 0.0


class _Run:
    """One process's work on a run."""

    def __init__(self, agent, env, config, run_dir, shapes, display, signals):
        self.agent, self.env, self.config, self.run_dir = agent, env, config, run_dir
        self.shapes, self.display, self.signals = shapes, display, signals
        self.phases = agent.phases(config.steps // env.action_repeat)
        eval_every = config.eval_every
        if config.replay:
            self.phases = offline.phases(self.phases)
            eval_every = offline.eval_every(self.phases, config)
        self.steps_each = agent.num_envs * env.action_repeat  # taken for each that is collected
        self.plan = stops(self.phases, self.steps_each, eval_every)
        self.position = Position()
        self.programs = {}  # compiled, by phase or by name
        self.sums = {}  # their names, by phase number
        self.hosted = isinstance(env, HostEnv)
        self.envs = None  # those on the host
        if self.hosted and self.plan[-1].step:
            self.envs = HostEnvs(env, config.num_seeds, agent.num_envs)

    def go(self, checkpoint_every: float, tensorboard: bool) -> dict:
        """Works until the plan is done, and returns the summary."""
        self.began = time.monotonic()
        carry = self._restore()
        self.display.begin(self.plan[-1].done, self.position.done)
        step = self._step()
        self.writer = metrics.Writer(self.run_dir, self.position.rows, step, tensorboard)
        with contextlib.closing(self.writer):
            carry = carry or self._start()
            self._work(carry, checkpoint_every)
        summary = self._summary()
        files.write_json(self.run_dir / SUMMARY, summary)
        return summary

    def _work(self, carry: Carry, checkpoint_every: float) -> None:
        pace = 1  # iterations in about CHUNK_S
        saved = time.monotonic()
        while stop := self._next_stop():
            count = min(pace, stop.done - self.position.done)
            carry, seconds = self._advance(stop, carry, count)
            pace = max(1, min(8 * pace, int(count * CHUNK_S / seconds)))
            if self.position.done == stop.done:
                carry = self._log(stop, carry)
            finished = self._next_stop() is None
            if finished or self.signals or time.monotonic() - saved > checkpoint_every:
                began = time.monotonic()
                self._save(carry)
                saved = time.monotonic()
                checkpoint_every = max(checkpoint_every, (saved - began) / SAVING_SHARE)
            if self.signals and not finished:
                raise Interrupted(
                    f"Stopped at {self._place()} and saved: repeat the command to go on.",
                    self.signals[0],
                )

    def _advance(self, stop: Stop, carry: Carry, count: int) -> tuple[Carry, float]:
        """`count` iterations nearer to `stop`, and the seconds they took."""
        phase = self.phases[stop.phase]
        carry = spread(self.agent, carry)  # what was restored, new sums, leaves without elements
        began, compile_s = time.monotonic(), self.position.compile_s
        if self.envs and phase.collect:
            carry = hosting.advance(self._compiled, self.agent, self.envs, phase, carry, count)
        else:
            args = self.agent, self.env, phase, carry, jnp.int32(count)
            step = self._compiled(phase, advance, *args)
            carry = step(*args[:2], *args[3:])  # what is static is already in the program
        sums = jax.device_get(carry.sums)  # waits for the device
        seconds = time.monotonic() - began - (self.position.compile_s - compile_s)
        self.position.train_s += seconds
        self.position.row_s += seconds
        self.position.done += count
        wrong = [name for name, value in sums.items() if not np.isfinite(value).all()]
        if wrong:
            sound = np.isfinite([sums[name] for name in wrong]).all(axis=0)
            raise self._diverged(" and ".join(wrong), sound)
        self.display.advance(phase.name, self.position.done, self._place())
        return carry, seconds

    def _log(self, stop: Stop, carry: Carry) -> Carry:
        """Writes the row of a stop, evaluates if it is time, and starts new sums."""
        before, position = self._before(stop), self.position
        means = metrics.means(jax.device_get(carry.sums), stop.done - before.done)
        lanes_per_s = self.config.num_seeds / position.row_s
        row = self._write(
            "train",
            stop,
            phase=self.phases[stop.phase].name,
            env_steps_per_s=(stop.step - before.step) * lanes_per_s,
            updates_per_s=(stop.updates - before.updates) * lanes_per_s,
            metrics=means,
        )
        position.row_s = 0.0
        self.display.row(row)
        if stop.evaluate:
            self._evaluate(stop, carry)
            if dreams.can_dream(self.agent, self.env):
                self._dream(stop, carry)
        return carry.replace(sums=self._zeros())

    def _evaluate(self, stop: Stop, carry: Carry) -> None:
        params, arena = carry.state.agent.params, games.opposed(self.env)
        args = self.agent, params, arena, self._keys("evaluate", stop.done)
        episodes = {"episodes": self.config.eval_episodes}
        if self.hosted:
            evaluate = partial(evaluation.evaluate_lanes, **episodes)
        else:
            evaluate = self._compiled("evaluate", evaluation.evaluate_at_once, *args, **episodes)
        self.display.doing("evaluating")
        returns = np.asarray(evaluate(*args))
        means = metrics.numbers(returns.mean(axis=1))
        self._write("eval", stop, returns=means, episodes=self.config.eval_episodes)
        if self.env.spec.players == 2:
            games.keep(self.run_dir, stop.done, params, stop.step)
        if complaint := evaluation.unfinished(returns):
            self.display.say(complaint)

    def _dream(self, stop: Stop, carry: Carry) -> None:
        """Writes how well the worlds foretell, and the values."""
        args = self.agent, carry.state.agent.params, self.env, self._keys("dream", stop.done)
        measure = self._compiled("dreams", dreams.measure_lanes, *args)
        self.display.doing("dreaming")
        measured = jax.device_get(measure(*args))
        numbers = {name: metrics.numbers(values) for name, values in measured.items()}
        self._write("dream", stop, metrics=numbers)

    def _keys(self, name: str, done: int) -> jax.Array:
        """Keys by purpose and by the place in the run: whoever uses them changes no training."""
        keys = jax.vmap(lambda key: jax.random.fold_in(program.named(key, name), done))(
            self.config.keys()
        )
        return spread(self.agent, keys)

    def _write(self, kind: str, stop: Stop, **rest) -> dict:
        """Writes a row about `stop`, see `metrics`, and returns it."""
        place = {"step": stop.step, "updates": stop.updates, "wall_s": self._wall_s()}
        row = {"kind": kind} | place | rest
        self.writer.write(row)
        self.position.rows += 1
        return row

    def _save(self, carry: Carry) -> None:
        self.display.doing("saving")
        params = jax.device_get(carry.state.agent.params)
        sound = [
            ~np.isnan(leaf).any(axis=tuple(range(1, leaf.ndim)))
            for leaf in jax.tree.leaves(params)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
        ]
        if not np.all(sound):
            raise self._diverged("params", np.all(sound, axis=0))
        self.position.wall_s, self.began = self._wall_s(), time.monotonic()
        self.writer.sync()
        position = dataclasses.asdict(self.position) | {"step": self._step()}
        attached = hosting.saved(self.envs) if self.envs else {}
        done = self.position.done
        checkpoints.save(self._checkpoints, done, carry, position, attached=attached)

    def _restore(self) -> Carry | None:
        checkpoint = checkpoints.latest(self._checkpoints)
        if checkpoint is None:
            return None
        saved = checkpoints.manifest(checkpoint)
        names = {field.name for field in dataclasses.fields(Position)}
        self.position = Position(**{name: saved[name] for name in names})
        self.display.say(f"resuming at {self._place()}")
        sums = jax.eval_shape(self._zeros)
        carry = checkpoints.restore(checkpoint, Carry(self.shapes, sums))
        if self.envs and not hosting.restore(self.envs, checkpoint, carry.state):
            self.display.say(f"{self.env.name} cannot be saved: new episodes begin")
            carry = carry.replace(state=self._begin(hosting.cut(carry.state)))
        return carry

    def _start(self) -> Carry:
        args = self.agent, self.env, self.config.keys()
        state = self._compiled("start", start, *args)(*args)
        if self.envs:
            state = self._begin(state)
        if self.config.replay:
            state = state.replace(agent=offline.adopt(state.agent, self.config))
        return Carry(state, self._zeros())

    def _begin(self, state: program.TrainState) -> program.TrainState:
        """Begins episodes on the host."""
        return hosting.begin(self.envs, state, self._keys("reset", self.position.done))

    def _zeros(self) -> Metrics:
        """Sums before the first iteration towards the next stop."""
        stop = self._next_stop()
        if stop is None:
            return {}
        if stop.phase not in self.sums:
            phase = self.phases[stop.phase]
            self.sums[stop.phase] = program.measured(self.agent, phase, self.shapes)
        return {name: jnp.zeros(self.config.num_seeds) for name in self.sums[stop.phase]}

    def _compiled(self, what: Phase | str, function, *args, **static):
        """`function`, compiled for these arguments once, with the seconds that took on record."""
        if what not in self.programs:
            self.display.doing(f"compiling {what.name if isinstance(what, Phase) else what}")
            began = time.monotonic()
            self.programs[what] = function.lower(*args, **static).compile()
            self.position.compile_s += time.monotonic() - began
        return self.programs[what]

    def _diverged(self, what: str, sound) -> TrainingDiverged:
        seeds = [self.config.seed + int(lane) for lane in np.flatnonzero(~sound)]
        good = checkpoints.latest(self._checkpoints)
        return TrainingDiverged(
            f"{what} became NaN or infinite by {self._place()} (seed "
            f"{', '.join(map(str, seeds))}). "
            + (f"The last good checkpoint is {good}." if good else "No checkpoint was saved yet.")
        )

    def _summary(self) -> dict:
        config, end, position = self.config, self.plan[-1], self.position
        returns = metrics.read(self.run_dir, "eval")[-1]["returns"]
        params = jax.tree.leaves(self.shapes.agent.params)
        replayed = getattr(self.agent, "replayed_per_update", None)
        ratio = None  # of learning without steps, or of an agent that counts no replayed ones
        if replayed and end.step:
            ratio = end.updates * replayed / (end.step / config.action_repeat)
        return {
            "agent": config.agent,
            "env": config.env,
            "steps": end.step,
            "action_repeat": config.action_repeat,
            "num_seeds": config.num_seeds,
            **metrics.over_seeds(returns),
            "wall_s": self._wall_s(),
            "compile_s": position.compile_s,
            "env_steps_per_s": end.step * config.num_seeds / position.train_s,
            "updates": end.updates,
            "replay_ratio": ratio,
            "parameters": sum(math.prod(leaf.shape[1:]) for leaf in params),
            "preset": config.preset,
            "device": describe(),
            "versions": {
                "dreamerzero": __version__,
                "jax": jax.__version__,
                "python": platform.python_version(),
            },
        }

    @property
    def _checkpoints(self) -> Path:
        return self.run_dir / "checkpoints"

    def _wall_s(self) -> float:
        return self.position.wall_s + time.monotonic() - self.began

    def _next_stop(self) -> Stop | None:
        return next((stop for stop in self.plan if stop.done > self.position.done), None)

    def _before(self, stop: Stop) -> Stop:
        index = self.plan.index(stop)
        return self.plan[index - 1] if index else BEGINNING

    def _step(self) -> int:
        """Environment steps of one seed so far."""
        return self._here().step

    def _place(self) -> str:
        """How far the run is: in steps of a seed, or where none are taken in updates."""
        here, end = self._here(), self.plan[-1]
        if end.step:
            return f"step {here.step:,} of {end.step:,}"
        return f"update {here.updates:,} of {end.updates:,}"

    def _here(self) -> Stop:
        """Where the run would stop if it stopped now."""
        stop = self._next_stop() or self.plan[-1]
        phase, left = self.phases[stop.phase], stop.done - self.position.done
        return stop._replace(
            step=stop.step - left * phase.collect * self.steps_each,
            updates=stop.updates - left * phase.updates,
        )


def _check_folder(run_dir: Path, config: RunConfig) -> bool:
    """Whether the folder holds this run already."""
    if (run_dir / configs.CONFIG).exists():
        if changed := configs.differences(configs.read(run_dir), config):
            raise UsageError(
                f"{run_dir} holds another run ({changed}). Give its settings to go on with it, or "
                "another --run-dir to start afresh."
            )
        return True
    if run_dir.exists() and (not run_dir.is_dir() or _holds_more(run_dir)):
        raise UsageError(
            f"{run_dir} exists and is not a run folder. Give another --run-dir: nothing in it was "
            "touched."
        )
    return False


def _holds_more(run_dir: Path) -> bool:
    """Whether there is more than what a process left that was killed while it wrote."""
    return any(not path.name.startswith(files.PARTIAL) for path in run_dir.iterdir())


def _read_summary(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UsageError(
            f"{path} cannot be read ({error}): remove it, and the same command writes it anew."
        ) from error


@contextlib.contextmanager
def _alone(run_dir: Path):
    """Keeps other processes from training in the folder, where the file system can."""
    if fcntl is None:
        yield
        return
    folder = os.open(run_dir, os.O_RDONLY)
    try:
        _lock(folder, run_dir)
        yield
    finally:
        os.close(folder)


def _lock(folder: int, run_dir: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(
            f"Another process trains in {run_dir}. Wait for it, or give another --run-dir."
        ) from error
    except OSError:
        pass  # some network drives have no locks


def _announcement(config: RunConfig, shapes, size: int) -> str:
    replay = getattr(shapes.agent, "replay", None)
    kept = f", of which replay {memory.readable(memory.nbytes(replay))}" if replay else ""
    seeds = f"seed {config.seed}"
    if config.num_seeds > 1:
        seeds = f"seeds {config.seed} … {config.seed + config.num_seeds - 1}"
    much = f"{config.steps:,} steps each"
    if config.replay:
        much = f"from the replay of {config.replay}, as much as in {much}"
    return (
        f"{config.agent} ({config.preset}) on {config.env}, {seeds}, {much}, "
        f"{memory.readable(size)} of memory{kept}"
    )


@contextlib.contextmanager
def _signals():
    """Collects SIGINT and SIGTERM instead of dying of the first; a second one is obeyed at once."""
    received = []

    def note(signum, _):
        if received:
            raise KeyboardInterrupt
        received.append(signum)

    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may handle signals
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
