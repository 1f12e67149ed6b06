"""Does MuZero learn? Four seeds on each task, six on the first, with the sizes for CPUs.

`learning.py` says what becomes of the runs.

    python benchmarks/muzero_learning.py            # all tasks
    python benchmarks/muzero_learning.py muzero-CartPole-v1
"""

from learning import Task, main


def efficientzero(variant: str = "", *options: str) -> Task:
    """Five evaluations, the last a little after 25,000 steps."""
    options = ("--eval-every", "5000", *options)
    return Task("efficientzero", "CartPole-v1", 25_100, 475.0, options, variant=variant)


PARTS = ("consistency", "prefix", "off-policy")  # augmentation changes no vectors
TASKS = (
    Task("muzero", "CartPole-v1", 60_000, 475.0, ("--eval-every", "5000"), seeds=6),
    Task("muzero-puct", "CartPole-v1", 60_000, 450.0, ("--eval-every", "5000")),
    Task("muzero", "Catch-bsuite", 24_000, 0.95),
    Task("muzero-sampled", "Pendulum-v1", 30_000, -300.0),
    efficientzero(),
    *(efficientzero(f"no-{part}", f"--agent.{part}", "0") for part in PARTS),
)

if __name__ == "__main__":
    main("muzero_learning", __doc__.split("\n\n")[0], TASKS)
