"""What to do with a world. Planners receive functions, never a world."""

from dreamerzero.planning.evolve import Evolution
from dreamerzero.planning.imagine import imagine, imagined_return
from dreamerzero.planning.search import (
    Search,
    chosen,
    gumbel_search,
    improved_value,
    puct_search,
    sampled,
    stochastic_search,
)
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
    "Evolution",
    "Plan",
    "Search",
    "cem",
    "chosen",
    "coloured_noise",
    "gumbel_search",
    "icem",
    "imagine",
    "imagined_return",
    "improved_value",
    "mppi",
    "puct_search",
    "random_shooting",
    "sampled",
    "scorer",
    "shift",
    "stochastic_search",
]
