"""Do the yardsticks learn? Five seeds on each task.

`learning.py` says what becomes of the runs.

    python benchmarks/yardstick_learning.py            # all tasks
    python benchmarks/yardstick_learning.py sac-Pendulum-v1
"""

from learning import Task, main

NEW_SEEDS = ("--seed", "5")  # DQN's sizes were chosen on 0 … 4
CARTPOLE = (*NEW_SEEDS, "--eval-every", "5000")
RAINBOW = (*CARTPOLE, "--preset", "rainbow", "--agent.v-min", "0", "--agent.v-max", "100")

TASKS = (
    Task("dqn", "CartPole-v1", 100_000, 475.0, CARTPOLE, seeds=5),
    Task("dqn", "CartPole-v1", 100_000, 475.0, RAINBOW, seeds=5, variant="rainbow"),
    Task("ppo", "CartPole-v1", 200_000, 475.0, ("--eval-every", "10000"), seeds=5),
    Task("sac", "Pendulum-v1", 20_000, -200.0, ("--eval-every", "1000"), seeds=5),
)

if __name__ == "__main__":
    main("yardstick_learning", __doc__.split("\n\n")[0], TASKS)
