"""What an ensemble of networks is good for: MBPO and PETS beside SAC. Five seeds on each task.

`learning.py` says what becomes of the runs.

    python benchmarks/ensemble_learning.py            # all tasks
    python benchmarks/ensemble_learning.py mbpo-Pendulum-v1
"""

from learning import Task, main

OFTEN = ("--eval-every", "250")
# As many updates a step as MBPO has: what it gains beyond these, it gains by its world.
UPDATES = (*OFTEN, "--agent.train-ratio", "2560", "--agent.prefill", "250")
REPEATED = ("--action-repeat", "4", "--eval-every", "5000")

TASKS = (
    Task("mbpo", "Pendulum-v1", 2_500, -200.0, OFTEN, seeds=5),
    Task("sac", "Pendulum-v1", 4_000, -200.0, UPDATES, seeds=5, variant="more-updates"),
    Task("pets", "Pendulum-v1", 3_000, -250.0, ("--eval-every", "1500"), seeds=5),
    Task("pets", "CartPoleSwingup-v0", 10_000, 700.0, REPEATED, seeds=5),
)

if __name__ == "__main__":
    main("ensemble_learning", __doc__.split("\n\n")[0], TASKS)
