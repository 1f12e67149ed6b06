"""What a search looked at: its tree, with the line that it takes to be best."""

from __future__ import annotations

import mctx
import numpy as np
from matplotlib.figure import Figure

from dreamerzero.viz.colours import BLACK, GREY


def plot(tree: mctx.Tree, lane: int = 0) -> Figure:
    """Draws the tree of one of the B searches, the root on top.

    Areas are visits, colours values of the player to move, numbers actions; the black line goes
    from the root to the most visited child of the most visited child, and so on.
    """
    children = np.asarray(tree.children_index[lane])
    visits = np.asarray(tree.node_visits[lane])
    values = np.asarray(tree.node_values[lane])
    place = layout(children)
    line = principal(children, visits)
    figure = Figure(figsize=(8, 4.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for parent, action in np.argwhere(children >= 0):
        child = children[parent, action]
        best = parent in line and child in line
        ends = np.array([place[parent], place[child]])
        axes.plot(*ends.T, color=BLACK if best else GREY, lw=2 if best else 1, zorder=1)
        middle = ends.mean(axis=0)
        axes.annotate(str(action), middle, fontsize=7, ha="right", va="bottom")
    nodes = sorted(place)
    points = axes.scatter(
        *np.array([place[node] for node in nodes]).T,
        s=20 + 400 * visits[nodes] / visits[0],
        c=values[nodes],
        cmap="viridis",
        edgecolors=BLACK,
        linewidths=0.5,
        zorder=2,
    )
    figure.colorbar(points, label="value")
    axes.set_ylabel("steps ahead")
    axes.yaxis.set_inverted(True)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    return figure


def layout(children) -> dict[int, tuple[float, float]]:
    """Where each visited node is drawn: leaves side by side, parents over the middle of theirs.

    Args:
      children: indices `[N, A]`, −1 where nothing was visited; node 0 is the root.
    Returns:
      (x, steps from the root) of every node below the root.
    """
    place, width = {}, 0

    def put(node, depth):
        nonlocal width
        below = [put(child, depth + 1) for child in children[node] if child >= 0]
        if below:
            x = (below[0] + below[-1]) / 2
        else:
            x, width = float(width), width + 1
        place[int(node)] = (x, depth)
        return x

    put(0, 0)
    return place


def principal(children, visits) -> list[int]:
    """The nodes from the root on, each the most visited child of the one before."""
    line = [0]
    while (below := children[line[-1]][children[line[-1]] >= 0]).size:
        line.append(int(below[np.argmax(visits[below])]))
    return line
