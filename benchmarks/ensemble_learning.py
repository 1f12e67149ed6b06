"""What an ensemble of networks is good for: MBPO and PETS beside SAC. Five seeds, HalfCheetah one.

`learning.py` says what becomes of the runs.

    python benchmarks/ensemble_learning.py            # all tasks
    python benchmarks/ensemble_learning.py mbpo-Pendulum-v1
"""

from learning import Task, main

OFTEN = ("--eval-every", "250")
# As many updates a step as MBPO has: what it gains beyond these, it gains by its world.
UPDATES = (*OFTEN, "--agent.train-ratio", "2560", "--agent.prefill", "250")
SEEDS = 5
UPRIGHT = ("--eval-every", "500", "--agent.target-entropy", "-0.05")  # the paper's, of there
LONG = ("--preset", "paper", "--eval-every", "2500")  # by mbpo 14 hours of a core, in many goes
REPEATED = ("--action-repeat", "4", "--eval-every", "5000")


def rollouts(steps: int) -> Task:
    """MBPO with rollouts of so many steps."""
    length = ("--agent.shortest", str(steps), "--agent.longest", str(steps))
    return Task("mbpo", "Pendulum-v1", 2_500, -200.0, OFTEN + length, SEEDS, f"k{steps}")


TASKS = (
    # Of 1, 5 and 15 steps the preset's were chosen on seeds 0 … 4.
    Task("mbpo", "Pendulum-v1", 2_500, -200.0, (*OFTEN, "--seed", "5"), seeds=SEEDS),
    rollouts(15),
    rollouts(5),
    rollouts(1),
    Task("sac", "Pendulum-v1", 4_000, -200.0, UPDATES, seeds=SEEDS, variant="more-updates"),
    Task("mbpo", "InvertedPendulum-v5", 2_500, 950.0, UPRIGHT, seeds=SEEDS),
    Task("mbpo", "HalfCheetah-v5", 100_000, 10_000.0, LONG, seeds=1),
    Task("sac", "HalfCheetah-v5", 20_000, 10_000.0, LONG, seeds=1),
    Task("pets", "Pendulum-v1", 3_000, -250.0, ("--eval-every", "1500"), seeds=SEEDS),
    Task("pets", "CartPoleSwingup-v0", 10_000, 700.0, REPEATED, seeds=SEEDS),
)

if __name__ == "__main__":
    main("ensemble_learning", __doc__.split("\n\n")[0], TASKS)
