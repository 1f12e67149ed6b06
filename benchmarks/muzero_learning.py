"""Does MuZero learn? Four seeds on each task, six on the first, with the sizes for CPUs.

`learning.py` says what becomes of the runs.

    python benchmarks/muzero_learning.py            # all tasks
    python benchmarks/muzero_learning.py muzero-CartPole-v1
"""

from learning import Task, main

TASKS = (
    Task("muzero", "CartPole-v1", 60_000, 475.0, ("--eval-every", "5000"), seeds=6),
    Task("muzero-puct", "CartPole-v1", 60_000, 450.0, ("--eval-every", "5000")),
    Task("muzero", "Catch-bsuite", 24_000, 0.95),
    Task("muzero-sampled", "Pendulum-v1", 30_000, -300.0),
)

if __name__ == "__main__":
    main("muzero_learning", __doc__.split("\n\n")[0], TASKS)
