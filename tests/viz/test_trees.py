import jax
import jax.numpy as jnp
import numpy as np

from dreamerzero.planning import gumbel_search
from dreamerzero.types import Prediction
from dreamerzero.viz import trees

#        0
#      /   \
#     1     2
#    / \     \
#   3   4     5
CHILDREN = np.array([[1, 2], [3, 4], [-1, 5], [-1, -1], [-1, -1], [-1, -1]])


def test_parents_stand_over_the_middle_of_their_children():
    place = trees.layout(CHILDREN)
    assert place == {3: (0, 2), 4: (1, 2), 5: (2, 2), 1: (0.5, 1), 2: (2, 1), 0: (1.25, 0)}


def test_the_principal_line_follows_the_visits():
    assert trees.principal(CHILDREN, np.array([6, 3, 2, 1, 2, 1])) == [0, 1, 4]
    assert trees.principal(CHILDREN, np.array([6, 2, 3, 1, 1, 2])) == [0, 2, 5]


def test_a_search_is_drawn_node_by_node():
    def evaluate(latent):
        return jnp.zeros((len(latent), 3)), latent

    def step(key, action, latent):
        return Prediction(jnp.zeros(len(latent)), jnp.ones(len(latent))), latent + action

    found = gumbel_search(jax.random.key(0), evaluate, step, jnp.zeros(2), simulations=12)
    figure = trees.plot(found.tree, lane=1)
    axes = figure.axes[0]
    assert len(axes.collections[0].get_offsets()) == 13  # the root and what each simulation added
    assert len(axes.lines) == 12
