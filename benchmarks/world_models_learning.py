"""Does World Models learn, in dreams alone? Three seeds, CarTrack one, with the preset for CPUs.

`learning.py` says what becomes of the runs.

    python benchmarks/world_models_learning.py            # all tasks
    python benchmarks/world_models_learning.py world-models-TakeCover-v0
"""

from learning import Task, main

TASKS = (
    # Twice what a random player survives. At τ = 1 dreams are safer than what they are of.
    Task(
        "world-models",
        "TakeCover-v0",
        340_000,
        390.0,
        ("--agent.temperature", "1.15"),
        seeds=3,
    ),
    # Who drives at random sees little of the road. Later rounds are collected with C.
    Task(
        "world-models",
        "CarTrack-v0",
        400_000,
        300.0,
        (
            *("--agent.rounds", "3", "--agent.vision-updates", "1000"),
            *("--agent.memory-updates", "1000", "--agent.generations", "40"),
        ),
        seeds=1,
    ),
)

if __name__ == "__main__":
    main("world_models_learning", __doc__.split("\n\n")[0], TASKS)
