"""What to do with a world. Planners receive functions, never a world."""

from dreamerzero.planning.imagine import imagine
from dreamerzero.planning.shooting import (
    Plan,
    cem,
    coloured_noise,
    icem,
    mppi,
    random_shooting,
    scorer,
    shift,
)

__all__ = [
    "Plan",
    "cem",
    "coloured_noise",
    "icem",
    "imagine",
    "mppi",
    "random_shooting",
    "scorer",
    "shift",
]
