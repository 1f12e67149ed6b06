"""What to do with a world. Planners receive functions, never a world."""

from dreamerzero.planning.imagine import imagine
from dreamerzero.planning.search import Search, gumbel_search, puct_search
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
    "Search",
    "cem",
    "coloured_noise",
    "gumbel_search",
    "icem",
    "imagine",
    "mppi",
    "puct_search",
    "random_shooting",
    "scorer",
    "shift",
]
