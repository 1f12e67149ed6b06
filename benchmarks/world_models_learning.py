"""Does World Models learn? Three seeds in dreams alone, CarTrack one seed, as in the paper in the
real environment, with the preset for CPUs.

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
    # Who drives at random sees little of the road. The second round is collected with C.
    Task(
        "world-models",
        "CarTrack-v0",
        800_000,
        300.0,
        (
            *("--action-repeat", "4", "--agent.dreamt-steps", "250"),
            *("--agent.rounds", "2", "--agent.noise", "0.5", "--agent.free-nats", "3"),
            *("--agent.vision-updates", "1000", "--agent.memory-updates", "1000"),
            *("--agent.generations", "0", "--agent.real-generations", "40"),
            *("--agent.population", "16", "--agent.episodes", "4"),
        ),
        seeds=1,
    ),
)

if __name__ == "__main__":
    main("world_models_learning", __doc__.split("\n\n")[0], TASKS)
