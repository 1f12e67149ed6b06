"""Do PlaNet and the Dreamers learn? Four seeds on each task, with the preset for CPUs.

`learning.py` says what becomes of the runs.

    python benchmarks/dreamer_learning.py            # all tasks
    python benchmarks/dreamer_learning.py dreamer-Catch-bsuite planet-Pendulum-v1
"""

from learning import Task, main

TASKS = (
    Task("dreamer", "CartPole-v1", 30_000, 475.0),
    Task("dreamer", "Pendulum-v1", 15_000, -250.0),
    Task("dreamer", "Catch-bsuite", 24_000, 0.9),
    # The reward is whether action and memory agree: a policy of even odds shows neither alone to
    # matter, and the world learns neither for thousands of updates. So the paper's entropy, with
    # which policies lean early, and shorter windows: for the same compute twice the updates.
    Task(
        "dreamer",
        "MemoryChain-bsuite",
        20_000,
        0.9,
        ("--agent.entropy", "3e-4", "--agent.batch-length", "16"),
    ),
    # One action of .01 s changes too little; PlaNet repeated it 8 times, Dreamer 2 times.
    Task(
        "dreamer",
        "CartPoleSwingup-v0",
        50_000,
        700.0,
        ("--action-repeat", "4", "--agent.train-ratio", "256"),
    ),
    # Shorter windows: for the same compute twice the updates. The world is learnt sooner.
    Task(
        "dreamer",
        "CartPole-pixels",
        10_000,
        300.0,
        (
            *("--agent.train-ratio", "32", "--agent.batch-length", "16"),
            *("--agent.depth", "4", "--agent.capacity", "40000"),
        ),
    ),
    Task(
        "dreamer",
        "Breakout-MinAtar",
        500_000,
        5.0,
        ("--agent.train-ratio", "16", "--agent.batch-length", "16"),
    ),
    Task("dreamer-v1", "Pendulum-v1", 15_000, -300.0),
    Task("dreamer-v2", "Pendulum-v1", 15_000, -300.0),
    Task("dreamer-v2", "Catch-bsuite", 24_000, 0.9),
    # It plans in every step of an evaluation, so there are fewer of them.
    Task("planet", "Pendulum-v1", 10_000, -300.0, ("--eval-every", "2000")),
)

if __name__ == "__main__":
    main("dreamer_learning", __doc__.split("\n\n")[0], TASKS)
