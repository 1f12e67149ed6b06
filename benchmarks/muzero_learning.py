"""Does MuZero learn? Six seeds, four, or where a task is long fewer, with the sizes for CPUs.

`learning.py` says what becomes of the runs.

    python benchmarks/muzero_learning.py            # all tasks
    python benchmarks/muzero_learning.py muzero-CartPole-v1
"""

from learning import RUNS, Task, main

LOOKS = ("--eval-every", "5000")
MINATAR = ("--eval-every", "15000", "--agent.train-ratio", "96")
RANDOM_STARTS = ("--preset", "board", "--agent.openings", "0.9")
OFFLINE = (*LOOKS, "--replay", str(RUNS / "muzero-CartPole-v1"))
GRIDS = ("--eval-every", "3000")
UNCHANGED = (*GRIDS, "--agent.augment", "False")
SIBLINGS = (*LOOKS, "--agent.tree-range", "False", "--agent.td-steps", "30")


def without(part: str, off: str = "0") -> Task:
    """EfficientZero with one of its parts turned off."""
    options, variant = (*LOOKS, f"--agent.{part}", off), f"no-{part}"
    return Task("efficientzero", "CartPole-v1", 30_000, 475.0, options, seeds=6, variant=variant)


def points(agent: str) -> list[Task]:
    """2048, which takes one hour or two a seed."""
    task = Task(agent, "2048-pgx", 200_000, 2000.0, ("--preset", "2048"), seeds=1)
    other = task._replace(options=(*task.options, "--seed", "1"), variant="seed-1")
    return [task, other]


TASKS = (
    Task("muzero", "CartPole-v1", 60_000, 475.0, LOOKS, seeds=6),
    Task("muzero", "CartPole-v1", 60_000, 475.0, SIBLINGS, seeds=6, variant="siblings"),
    # From what the first of these has seen alone.
    Task("muzero-reanalyse", "CartPole-v1", 60_000, 475.0, OFFLINE, seeds=6, variant="offline"),
    Task("muzero-puct", "CartPole-v1", 60_000, 450.0, LOOKS),
    Task("muzero", "Catch-bsuite", 48_000, 0.95),
    Task("muzero-sampled", "Pendulum-v1", 30_000, -300.0),
    # Against random moves; `dreamerzero eval` has other opponents.
    Task("muzero", "TicTacToe-pgx", 400_000, 0.9, ("--preset", "board"), seeds=2),
    Task("alphazero", "TicTacToe-pgx", 400_000, 0.9, ("--preset", "board"), seeds=2),
    Task("muzero", "ConnectFour-pgx", 1_000_000, 0.9, RANDOM_STARTS, seeds=2),
    Task("muzero", "Breakout-MinAtar", 150_000, 5.0, MINATAR, seeds=2),
    # A random player makes 1,091 points; `players_2048.py` knows a better one.
    *points("muzero"),
    *points("muzero-stochastic"),
    Task("efficientzero", "CartPole-v1", 40_000, 475.0, LOOKS, seeds=6),
    Task("efficientzero-v2", "Pendulum-v1", 30_000, -300.0, ("--eval-every", "3000")),
    Task("efficientzero-v2", "CartPole-v1", 40_000, 475.0, LOOKS),
    # Without all of these parts EfficientZero is MuZero, but for augmentation, which changes no
    # vectors.
    *map(without, ("consistency", "prefix", "off-policy")),
    without("tree-range", "False"),
    Task("efficientzero", "Catch-bsuite", 30_000, 0.95, GRIDS, seeds=6),
    Task("efficientzero", "Catch-bsuite", 30_000, 0.95, UNCHANGED, seeds=6, variant="no-augment"),
)

if __name__ == "__main__":
    main("muzero_learning", __doc__.split("\n\n")[0], TASKS)
