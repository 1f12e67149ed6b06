"""The command line, typed from the dataclasses: train, eval, play, dream, plot, agents, envs.

Exit codes: 0 done, 1 the training diverged, 2 something the user can mend (one sentence says what),
130 and 143 stopped by SIGINT and SIGTERM; training saves first, unless it is told twice.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import inspect
import io
import json
import math
import os
import sys
import textwrap
import typing
import warnings
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dreamerzero import __version__

HELP = """\
usage: dreamerzero COMMAND …

  train AGENT --env ENV --steps N   train into a run folder; the same command again goes on
  eval DIR                          play fresh episodes with a trained agent
  play DIR                          play a board game against a trained agent
  dream DIR --out FILE.gif          what the agent's world foretells, beside what comes
  plot DIR… --out FILE.png          learning curves with a 95% interval over seeds
  agents                            the agents and their presets
  envs                              the environments

`dreamerzero COMMAND --help` and `dreamerzero train AGENT --help` list every option.
"""


@dataclasses.dataclass
class Train:
    """Train an agent into a run folder. The same command again goes on where it stopped."""

    env: str
    """A name from `dreamerzero envs`, or module:Class of a gymnax Environment or gymnasium Env."""
    steps: int
    """Environment steps of each seed over all its parallel environments, prefill included."""
    seed: int = 0
    """The first seed."""
    num_seeds: int = 1
    """Seeds trained side by side, SEED … SEED + NUM_SEEDS − 1."""
    run_dir: Path | None = None
    """Where everything goes; runs/AGENT-ENV-sSEED if omitted, with the last seed too if several."""
    preset: str | None = None
    """Named values for the agent's fields; if omitted, those for this device."""
    action_repeat: int = 1
    """Environment steps for each action of the agent. STEPS counts them all."""
    eval_every: int | None = None
    """Steps between two evaluations, with REPLAY as much learning; a tenth of STEPS if omitted."""
    replay: Path | None = None
    """Learn only from what the run in this folder has seen, as much as in STEPS steps."""
    checkpoint_every: float = 30.0
    """Seconds between two checkpoints."""
    resume: bool = False
    """Go on with the run in RUN_DIR; what is not said again is taken from its config.json."""
    tensorboard: bool = False
    """Write TensorBoard files too (needs tensorboardX)."""
    quiet: bool = False
    """Show nothing but the result."""


@dataclasses.dataclass
class Eval:
    """Play fresh episodes with a trained agent, acting greedily; games against an opponent."""

    run_dir: tyro.conf.Positional[Path]
    """The run folder."""
    episodes: int = 32
    """Episodes of each seed, every one in an environment of its own; games on each side."""
    seed: int = 0
    """Decides what happens in the episodes."""
    opponent: Literal["random", "search", "perfect", "past"] | None = None
    """Of games for two: random moves (if omitted); a search in the true rules with 64 random games;
    perfect, of tic-tac-toe; or past, for the Elo ladder of all evaluations of the run."""
    video: Path | None = None
    """Record an episode of the first seed into this GIF, a board game into this SVG."""
    json: bool = False
    """Print the result as JSON."""


@dataclasses.dataclass
class Play:
    """Play a board game against a trained agent, here in the terminal."""

    run_dir: tyro.conf.Positional[Path]
    """The run folder; its first seed plays."""
    second: bool = False
    """Let the agent begin."""
    seed: int = 0
    """Decides what the agent leaves to chance."""


@dataclasses.dataclass
class Dream:
    """Watch the world of a trained agent dream on from five frames, beside what truly comes."""

    run_dir: tyro.conf.Positional[Path]
    """The run folder; its first seed dreams."""
    out: Path | None = None
    """The GIF to write, or for vectors and integers a PNG; needed unless --json is given."""
    seed: int = 0
    """Decides what happens in the episodes and in the dreams."""
    json: bool = False
    """Print the errors of the predictions, and of the values, as JSON."""


@dataclasses.dataclass
class Plot:
    """Learning curves of runs on one axis: mean and 95% bootstrap interval over seeds."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """The run folders."""
    out: Path
    """The PNG, SVG or PDF to write."""


@dataclasses.dataclass
class ListAgents:
    """The agents, in the order of the lineage."""


@dataclasses.dataclass
class ListEnvs:
    """Every environment that has a name. Others are given as module:Class."""


def train(argv: list[str]) -> None:
    from dreamerzero import agents, envs
    from dreamerzero.training import config as configs
    from dreamerzero.training import dreams, runner
    from dreamerzero.training.files import whole
    from dreamerzero.types import UsageError
    from dreamerzero.viz import curves

    listed = ", ".join(agents.AGENTS)
    named = bool(argv) and not argv[0].startswith("-")
    name, argv = (argv[0], argv[1:]) if named else (None, argv)
    run_dir, preset = _peek(argv, "--run-dir"), _peek(argv, "--preset")
    defaults, fields = {"env": tyro.MISSING, "steps": tyro.MISSING}, {}
    if "--resume" in argv:
        if run_dir is None:
            raise UsageError("--resume needs the folder to go on with: --run-dir DIR.")
        old = configs.read(Path(run_dir))
        shared = ("env", "steps", "seed", "num_seeds", "action_repeat", "eval_every")
        defaults = {setting: getattr(old, setting) for setting in shared}
        defaults["replay"] = old.replay and Path(old.replay)
        name, fields = name or old.agent, {} if preset else old.fields
        preset = preset or old.preset
    if name is None and {"-h", "--help"} & {*argv}:
        about = f"AGENT is one of {listed}; `train AGENT --help` lists its fields too."
        _parse(Train, argv, "train AGENT", f"{Train.__doc__}\n\n{about}", defaults)
    if name is None:
        raise UsageError(
            f"Name an agent first: dreamerzero train AGENT --env ENV --steps N. Agents: {listed}."
        )
    kind, preset = agents.find(name, preset)
    options = _parse(
        _with_fields(Train, kind, kind.PRESETS[preset] | fields),
        argv,
        f"train {name}",
        f"{Train.__doc__}\n\n{inspect.getdoc(kind)}",
        defaults,
    )
    if not options.checkpoint_every >= 0:
        raise UsageError(f"--checkpoint-every is {options.checkpoint_every}; give 0 or more.")
    env = envs.make(options.env, options.action_repeat)
    agent = agents.make(name, env, preset, **dataclasses.asdict(options.fields))
    config = configs.make(
        name,
        agent,
        env,
        options.steps,
        seed=options.seed,
        num_seeds=options.num_seeds,
        eval_every=options.eval_every,
        preset=preset,
        replay=options.replay and str(options.replay),
    )
    run_dir = options.run_dir or Path("runs") / _folder_name(config)
    summary = runner.run(
        agent,
        env,
        config,
        run_dir,
        checkpoint_every=options.checkpoint_every,
        tensorboard=options.tensorboard,
        quiet=options.quiet,
    )
    if not (run_dir / "curve.png").exists():
        with whole(run_dir / "curve.png") as partial:
            curves.plot([run_dir], partial)
    if dreams.can_dream(agent, env):
        _picture(agent, env, config, run_dir)
    print(
        f"{_result(summary, config.eval_episodes)} · {summary['steps']:,} steps in "
        f"{summary['wall_s']:.0f} s ({summary['compile_s']:.0f} s compiling) · {run_dir}"
    )


def evaluate(argv: list[str]) -> None:
    import jax
    import numpy as np

    from dreamerzero.training import config as configs
    from dreamerzero.training import evaluation, games, metrics
    from dreamerzero.types import UsageError
    from dreamerzero.viz import video

    options = _parse(Eval, argv, "eval", Eval.__doc__)
    if options.episodes < 1:
        raise UsageError(f"--episodes is {options.episodes}; give 1 or more.")
    config = configs.read(options.run_dir)
    agent, env = configs.build(config)
    if options.video:
        video.check(env, options.video)
    params = configs.load_params(options.run_dir, config, agent, env)
    video_key, *keys = jax.random.split(_key(options.seed), config.num_seeds + 1)
    result = {"agent": config.agent, "env": config.env, "episodes": options.episodes}
    complaint = ""
    if options.opponent == "past":
        ladder = games.ladder(agent, options.run_dir, params, env, keys[0], options.episodes)
        result["ladder"] = [{"step": step, "elo": elo} for step, elo in ladder]
        said = _ladder(result)
    elif options.opponent or env.spec.players == 2:
        result["opponent"] = options.opponent or "random"
        rival = games.opponent(result["opponent"], env)
        table = games.results(agent, params, env, rival, keys[0], options.episodes)
        result |= metrics.over_seeds(metrics.numbers(games.scores(table)))
        result |= {side: table[side].tolist() for side in games.SIDES}
        said = _score(result)
    else:
        returns = np.asarray(
            evaluation.evaluate_lanes(
                agent, params, env, jax.numpy.stack(keys), episodes=options.episodes
            )
        )
        result |= metrics.over_seeds(metrics.numbers(returns.mean(axis=1)))
        said, complaint = _result(result, options.episodes), evaluation.unfinished(returns)
    if options.video:
        first = jax.tree.map(lambda leaf: leaf[0], params)
        video.record(agent, first, env, video_key, options.video)
    print(json.dumps(result) if options.json else said)
    if complaint:
        print(complaint, file=sys.stderr)


def play(argv: list[str]) -> None:
    from dreamerzero.training import config as configs
    from dreamerzero.viz import boards

    options = _parse(Play, argv, "play", Play.__doc__)
    agent, params, env = configs.load(options.run_dir)
    boards.require(env)
    boards.play(agent, params, env, _key(options.seed), person_begins=not options.second)


def dream(argv: list[str]) -> None:
    import jax

    from dreamerzero.training import config as configs
    from dreamerzero.training import dreams, metrics
    from dreamerzero.types import UsageError
    from dreamerzero.viz import dreams as pictures

    options = _parse(Dream, argv, "dream", Dream.__doc__)
    if not (options.out or options.json):
        raise UsageError("Say what to make: --out FILE.gif, --json, or both.")
    config = configs.read(options.run_dir)
    agent, env = configs.build(config)
    dreams.require(config.agent, agent, env)
    if options.out:
        pictures.check(env, options.out)
    params = configs.load_params(options.run_dir, config, agent, env)
    first = jax.tree.map(lambda leaf: leaf[0], params)
    measure_key, picture_key = jax.random.split(_key(options.seed))
    steps = dreams.LONG if hasattr(agent, "value") else dreams.STEPS
    measured = dreams.measure(agent, first, env, measure_key, steps=steps)
    measured = dict(zip(measured, metrics.numbers([*measured.values()])))
    if options.out:
        pictures.draw(agent, first, env, picture_key, options.out)
    result = {"agent": config.agent, "env": config.env, "seed": config.seed}
    result |= {"episodes": dreams.EPISODES, "metrics": measured}
    print(json.dumps(result) if options.json else _foretold(result))


def plot(argv: list[str]) -> None:
    from dreamerzero.types import UsageError
    from dreamerzero.viz import curves

    options = _parse(Plot, argv, "plot", Plot.__doc__)
    if not options.run_dirs:
        raise UsageError("Name one run folder or several: dreamerzero plot DIR… --out FILE.png.")
    print(curves.plot(list(options.run_dirs), options.out))


def list_agents(argv: list[str]) -> None:
    from dreamerzero.agents import AGENTS

    _parse(ListAgents, argv, "agents", ListAgents.__doc__)
    width = max(map(len, AGENTS))
    for name, kind in AGENTS.items():
        about = inspect.getdoc(kind).partition("\n")[0]
        print(f"{name:<{width}} {about}  Presets: {', '.join(kind.PRESETS)}.")


def list_envs(argv: list[str]) -> None:
    from dreamerzero.envs import host, names

    _parse(ListEnvs, argv, "envs", ListEnvs.__doc__)
    print("\n".join(names()))
    print("\nOf gymnasium, stepped by Python:\n" + "\n".join(host.names()))


COMMANDS = {
    "train": train,
    "eval": evaluate,
    "play": play,
    "dream": dream,
    "plot": plot,
    "agents": list_agents,
    "envs": list_envs,
}


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    command, *argv = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if command == "--version":
        print(__version__)
        return 0
    try:
        return _call(command, argv)
    except KeyboardInterrupt:
        return _complain("Interrupted.", 130)


def _call(command: str, argv: list[str]) -> int:
    # Every core is a device, for lanes to share. JAX reads this when it is imported.
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(_cores()))
    # Loading a cached program makes XLA compare the CPU's features with its own list, at length.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # A cache that cannot be read or written costs time, nothing else.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")
    import jax

    from dreamerzero.training import Interrupted, TrainingDiverged, devices
    from dreamerzero.types import UsageError

    try:
        sys.path.append(os.getcwd())  # where `module:Class` of one's own lies
        if command not in COMMANDS:
            raise UsageError(f"Unknown command {command!r}: choose from {', '.join(COMMANDS)}.")
        devices.cache_compilations()
        COMMANDS[command](argv)
        sys.stdout.flush()
    except UsageError as error:
        return _complain(error, 2)
    except BrokenPipeError:  # `dreamerzero envs | head`: nobody listens any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _complain(f"{error}. Is the folder writable, and is there space?", 2)
    except TrainingDiverged as error:
        return _complain(error, 1)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = str(error).partition("\n")[0]
        return _complain(f"Not enough memory: {said} Ask for fewer or smaller things at once.", 2)
    except Interrupted as stop:
        return _complain(stop, 128 + stop.signum)
    return 0


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _complain(message, code: int) -> int:
    print(f"dreamerzero: {message}", file=sys.stderr)
    return code


def _result(result: dict, episodes: int) -> str:
    where = f"{result['agent']} on {result['env']}"
    if result["return_mean"] is None:
        return f"{where}: return undefined, an episode did not end"
    seeds = len(result["returns"])
    spread = f" ± {result['return_std']:.3g}" if seeds > 1 else ""
    over = f"{seeds} seeds × {episodes}" if seeds > 1 else f"{episodes}"
    return f"{where}: return {result['return_mean']:.4g}{spread} over {over} episodes"


def _score(result: dict) -> str:
    """Games won, drawn and lost, over all seeds."""
    mean = result["return_mean"]
    score = "undefined, no game ended" if mean is None else f"{mean:.3g} from −1 to 1"
    lines = [f"{result['agent']} on {result['env']} against {result['opponent']}: score {score}"]
    for side in ("first", "second"):
        won, drawn, lost = map(sum, zip(*result[side]))
        lines.append(f"moving {side}: {won} won, {drawn} drawn, {lost} lost")
    return "\n  ".join(lines)


def _ladder(result: dict) -> str:
    """The Elo ratings of a run's past players."""
    lines = [f"{result['agent']} on {result['env']}, Elo against its own past:"]
    lines += [f"step {rung['step']:>9,}  {rung['elo']:6.0f}" for rung in result["ladder"]]
    return "\n  ".join(lines)


def _foretold(result: dict) -> str:
    """What `dream` says of its numbers."""
    from dreamerzero.training.dreams import HORIZONS

    def listed(name):
        numbers = [result["metrics"][f"{name}/{h}"] for h in HORIZONS]
        return ", ".join("–" if number is None else f"{number:.3g}" for number in numbers)

    lines = [
        f"{result['agent']} on {result['env']}, {', '.join(map(str, HORIZONS))} steps ahead:",
        f"error {listed('prediction_error')}",
        f"of the last frame seen {listed('copy_error')}",
        f"of the reward {listed('reward_error')}",
    ]
    if "value" in result["metrics"]:
        value, achieved, correlation = (
            math.nan if result["metrics"][name] is None else result["metrics"][name]
            for name in ("value", "return", "value_correlation")
        )
        lines.append(
            f"value {value:.4g} where the return was {achieved:.4g} (correlation {correlation:.2g})"
        )
    return "\n  ".join(lines)


def _key(seed: int):
    import jax

    from dreamerzero.training import config as configs

    configs.check_seed(seed)
    return jax.random.key(seed)


def _picture(agent, env, config, run_dir: Path) -> None:
    """Leaves a dream of the first seed in the run's folder, if there is one to be drawn."""
    import jax

    from dreamerzero.training import config as configs
    from dreamerzero.training.files import whole
    from dreamerzero.types import UsageError
    from dreamerzero.viz import dreams

    path = run_dir / f"dream{dreams.usual(env)}"
    if path.exists():
        return
    params = configs.load_params(run_dir, config, agent, env)
    first = jax.tree.map(lambda leaf: leaf[0], params)
    try:
        with whole(path) as partial:
            dreams.draw(agent, first, env, jax.random.key(0), partial)
    except UsageError as error:
        print(error, file=sys.stderr)


def _folder_name(config) -> str:
    last = config.seed + config.num_seeds - 1
    seeds = f"s{config.seed}" if last == config.seed else f"s{config.seed}-{last}"
    return f"{config.agent}-{config.env.replace(':', '.').replace('/', '.')}-{seeds}"


def _peek(argv: list[str], option: str) -> str | None:
    """The value of an option that has to be known before the others can be read."""
    for index, word in enumerate(argv):
        name, given, value = word.partition("=")
        if name.replace("_", "-") == option:
            return value if given else next(iter(argv[index + 1 :]), None)
    return None


def _with_fields(options: type, kind: type, values: dict) -> type:
    """`options` with the agent's own fields as `--agent.FIELD`, and `values` as their defaults."""
    docs, hints = field_docs(kind), typing.get_type_hints(kind)
    fields = dataclasses.make_dataclass(
        "Fields",
        [
            (
                field.name,
                Annotated[hints[field.name], tyro.conf.arg(help=docs.get(field.name, ""))],
                dataclasses.field(default=values.get(field.name, field.default)),
            )
            for field in dataclasses.fields(kind)
            if field.name != "spec"
        ],
    )
    nested = Annotated[fields, tyro.conf.arg(name="agent"), tyro.conf.FlagConversionOff]
    extra = ("fields", nested, dataclasses.field(default_factory=fields))
    return dataclasses.make_dataclass(options.__name__, [extra], bases=(options,))


def field_docs(kind: type) -> dict[str, str]:
    """What a dataclass and its bases say of their fields: the string below a field, or the comment
    beside it."""
    docs = {}
    for base in reversed(kind.__mro__[:-1]):
        docs |= {name: doc for name, doc in _own_field_docs(base).items() if doc}
    return docs


def _own_field_docs(kind: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(kind))
    lines, body = source.splitlines(), ast.parse(source).body[0].body
    docs = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign):
            continue
        comment = lines[node.end_lineno - 1][node.end_col_offset :].partition("#")[2]
        doc = getattr(getattr(after, "value", None), "value", None)
        doc = doc if isinstance(after, ast.Expr) and isinstance(doc, str) else comment
        docs[node.target.id] = " ".join(doc.split())
    return docs


def _parse(kind: type, argv: list[str], command: str, about: str, defaults: dict | None = None):
    """The options in `argv`; whatever is wrong with them becomes one sentence."""
    from dreamerzero.types import UsageError

    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard):
            options, unknown = tyro.cli(
                kind,
                prog=f"dreamerzero {command}",
                description=about,
                args=argv,
                default=kind(**defaults) if defaults else tyro.MISSING_NONPROP,
                return_unknown_args=True,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(f"{_first_paragraph(heard.getvalue())}; see --help.") from None
    if unknown:
        near = difflib.get_close_matches(unknown[0], [f"--{name}" for name in _names(kind)])
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise UsageError(
            f"Unknown option {unknown[0]!r}.{hint} `dreamerzero {command} --help` lists all."
        )
    return options


def _names(kind: type, prefix: str = "") -> list[str]:
    """The options of a dataclass, as they are typed."""
    names = []
    for field in dataclasses.fields(kind):
        if field.name == "fields":
            names += _names(field.default_factory, "agent.")
        else:
            names.append(prefix + field.name.strip("_").replace("_", "-"))
    return names


def _first_paragraph(report: str) -> str:
    """What tyro's framed report says before its second rule."""
    lines = [line.strip(" │|") for line in report.splitlines()[1:]]
    said = " ".join("\n" if set(line) <= {*"─-╭╮╰╯"} else line for line in lines)
    return " ".join(said.strip().partition("\n")[0].split())
