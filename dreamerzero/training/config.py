"""What a run was asked to do: `config.json`, from which agent and environment can be rebuilt."""

from __future__ import annotations

import dataclasses
import json
import typing
import warnings
from pathlib import Path

import jax

from dreamerzero import __version__, agents, envs
from dreamerzero.training import checkpoints, files, program
from dreamerzero.types import UsageError

CONFIG = "config.json"
EVALUATIONS = 10  # in a run, unless told otherwise
EPISODES = 32  # in an evaluation: part of its definition


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A run, in plain values.

    `fields` are all of the agent's hyperparameters, `steps` and `eval_every` environment steps over
    all parallel environments of one seed, `action_repeat` of them for each action; the lanes are
    seeds `seed … seed + num_seeds − 1`. With `replay`, the folder of another run, nothing is
    collected, and the steps only say how much is learnt.
    """

    agent: str
    env: str
    steps: int
    seed: int
    num_seeds: int
    eval_every: int
    fields: dict
    preset: str | None = None
    action_repeat: int = 1
    replay: str | None = None
    eval_episodes: int = EPISODES
    version: str = __version__

    def keys(self) -> jax.Array:
        """The run's keys, one a lane, `[K]`: lane i is the single run with seed S + i."""
        return jax.vmap(jax.random.key)(self.seed + jax.numpy.arange(self.num_seeds))

    def write(self, run_dir: Path) -> None:
        files.write_json(run_dir / CONFIG, dataclasses.asdict(self))


def make(
    agent_name: str,
    agent,
    env,
    steps: int,
    *,
    seed: int = 0,
    num_seeds: int = 1,
    eval_every: int | None = None,
    preset: str | None = None,
    replay: str | None = None,
) -> RunConfig:
    """The config of a run of `agent` in `env`.

    Raises:
      UsageError: for numbers no run can have.
    """
    eval_every = max(1, steps // EVALUATIONS) if eval_every is None else eval_every
    given = {"steps": steps, "num_seeds": num_seeds, "eval_every": eval_every}
    for name, value in given.items():
        if value < 1:
            raise UsageError(f"{name} is {value}; give 1 or more.")
    check_seed(seed, num_seeds)
    fields = {
        field.name: _plain(getattr(agent, field.name))
        for field in dataclasses.fields(agent)
        if field.name != "spec"
    }
    return RunConfig(
        agent_name,
        env.name,
        steps,
        seed,
        num_seeds,
        eval_every,
        fields,
        preset,
        action_repeat=env.action_repeat,
        replay=replay,
    )


def check_seed(seed: int, num_seeds: int = 1) -> None:
    """Raises UsageError unless so many seeds from `seed` on make keys of their own."""
    if not 0 <= seed <= 2**31 - num_seeds:
        raise UsageError(f"seed is {seed}; give a number from 0 to {2**31 - num_seeds}.")


def read(run_dir: Path) -> RunConfig:
    """The config of the run in a folder.

    Raises:
      UsageError: if the folder holds no run, or one of another version.
    """
    path = Path(run_dir) / CONFIG
    if not path.is_file():
        raise UsageError(f"{run_dir} is not a run folder: it has no {CONFIG}.")
    try:
        config = RunConfig(**json.loads(path.read_text()))
        for name, kind in typing.get_type_hints(RunConfig).items():
            if not isinstance(getattr(config, name), kind):
                raise TypeError(f"{name} is {getattr(config, name)!r}")
        fields = {name: _hashable(value) for name, value in config.fields.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} cannot be read ({error}): is it damaged?") from error
    return dataclasses.replace(config, fields=fields)


def differences(old: RunConfig, new: RunConfig) -> str:
    """The settings in which two runs differ, as `name: old → new`; empty if they are the same.

    Of two agents the fields are not compared: they mean different things.
    """
    if old.agent != new.agent:
        old, new = (dataclasses.replace(config, fields={}) for config in (old, new))

    def flat(config):
        settings = dataclasses.asdict(config)
        settings.pop("preset"), settings.pop("version")  # what they led to is in the fields
        return settings | {f"agent.{k}": v for k, v in settings.pop("fields").items()}

    old, new = json.loads(json.dumps([flat(old), flat(new)]))  # tuples as lists, as in the file
    return ", ".join(
        f"{name}: {old.get(name)} → {new.get(name)}"
        for name in sorted(old | new)
        if old.get(name) != new.get(name)
    )


def build(config: RunConfig, env=None):
    """The agent and the environment of a run: `(agent, env)`.

    Args:
      env: the environment, if it is one that its name cannot rebuild.
    """
    env = envs.make(config.env if env is None else env, config.action_repeat)
    agent = agents.make(config.agent, env, config.preset, **config.fields)
    new = {field.name for field in dataclasses.fields(agent)} - {"spec", *config.fields}
    if new:
        warnings.warn(
            f"A run of version {config.version} that knew nothing of {', '.join(sorted(new))} of "
            f"{config.agent}: they are as they are by default now.",
            stacklevel=2,
        )
    return agent, env


def load(run_dir: str | Path, env=None, seed: int | None = None):
    """A trained agent from its run folder, wherever that folder is now.

    Args:
      env: the environment, if it is one that its name cannot rebuild.
      seed: which of the run's seeds; the first if omitted.
    Returns:
      `(agent, params, env)`, ready for `agent.act(params, …)` and `evaluate`.
    Raises:
      UsageError: if the folder holds no run, no checkpoint yet, or a damaged one.
    """
    run_dir = Path(run_dir)
    config = read(run_dir)
    agent, env = build(config, env)
    seed = config.seed if seed is None else seed
    if not config.seed <= seed < config.seed + config.num_seeds:
        last = config.seed + config.num_seeds - 1
        raise UsageError(f"{run_dir} has the seeds {config.seed} … {last}; got {seed}.")
    params = load_params(run_dir, config, agent, env)
    return agent, jax.tree.map(lambda leaf: leaf[seed - config.seed], params), env


def load_params(run_dir: Path, config: RunConfig, agent, env):
    """The params of every seed of a run, leaves `[K, ...]`."""
    params = shapes(config, agent, env).agent.params
    return checkpoints.restore(last_checkpoint(run_dir), params, at=".state.agent.params")


def shapes(config: RunConfig, agent, env) -> program.TrainState:
    """The shapes of everything that a run is, leaves `[K, ...]`."""
    return jax.eval_shape(jax.vmap(program.start, (None, None, 0)), agent, env, config.keys())


def last_checkpoint(run_dir: Path) -> Path:
    """The newest checkpoint of the run in a folder.

    Raises:
      UsageError: if there is none yet.
    """
    checkpoint = checkpoints.latest(run_dir / "checkpoints")
    if checkpoint is None:
        raise UsageError(f"{run_dir} has no checkpoint yet: train it first.")
    return checkpoint


def _plain(value):
    return value.item() if hasattr(value, "item") else value


def _hashable(value):
    # JSON has lists where a static field has tuples.
    return tuple(_hashable(each) for each in value) if isinstance(value, list) else value
