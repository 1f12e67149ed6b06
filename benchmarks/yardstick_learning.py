"""Do the yardsticks learn? Five seeds on each task.

`learning.py` says what becomes of the runs.

    python benchmarks/yardstick_learning.py            # all tasks
    python benchmarks/yardstick_learning.py sac-Pendulum-v1
"""

from learning import Task, main

# Its numbers were chosen on seeds 0 … 4, its parts on 5 … 9 too; those of PPO and SAC on none.
CARTPOLE = ("--seed", "5", "--eval-every", "5000")
OTHER = ("--seed", "10", "--eval-every", "5000")
PLAIN = (*CARTPOLE, "--preset", "plain")

TASKS = (
    Task("dqn", "CartPole-v1", 100_000, 475.0, CARTPOLE, seeds=5),
    Task("dqn", "CartPole-v1", 100_000, 475.0, OTHER, seeds=5, variant="other-seeds"),
    Task("dqn", "CartPole-v1", 100_000, 475.0, PLAIN, seeds=5, variant="plain"),
    # gymnax plays it without the sticky actions of published curves.
    Task("dqn", "Breakout-MinAtar", 300_000, 10.0, ("--eval-every", "25000"), seeds=5),
    Task("ppo", "CartPole-v1", 200_000, 475.0, ("--eval-every", "10000"), seeds=5),
    Task("sac", "Pendulum-v1", 20_000, -200.0, ("--eval-every", "1000"), seeds=5),
)

if __name__ == "__main__":
    main("yardstick_learning", __doc__.split("\n\n")[0], TASKS)
