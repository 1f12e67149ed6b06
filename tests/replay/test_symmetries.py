import jax
import jax.numpy as jnp
import numpy as np

from dreamerzero import envs
from dreamerzero.replay import symmetries


def test_every_side_is_drawn_and_turns_all_parts_alike():
    """A stone lies where the move that set it says, from every side."""
    spec = envs.make("TicTacToe-pgx").spec
    sides = symmetries.draw(spec, jax.random.key(0), 400)
    assert len(np.unique(sides.order, axis=0)) == 8
    action = jnp.tile(jnp.arange(9)[:, None], (1, 400))  # [T, B], every cell in turn
    boards = jax.nn.one_hot(action, 9).reshape(9, 400, 3, 3, 1)
    turned = sides.actions(action)
    np.testing.assert_array_equal(
        sides.observations(boards).reshape(9, 400, 9), jax.nn.one_hot(turned, 9)
    )
    np.testing.assert_array_equal(
        sides.weights(jax.nn.one_hot(action, 9)), jax.nn.one_hot(turned, 9)
    )


def test_the_mirror_of_connect_four():
    spec = envs.make("ConnectFour-pgx").spec
    sides = symmetries.draw(spec, jax.random.key(1), 32)
    board = jnp.zeros((1, 32, 6, 7, 2)).at[0, :, 5, 1, 0].set(1.0)
    mirrored = sides.order[:, 0] == 6
    found = sides.observations(board)[0, :, 5, :, 0].argmax(axis=-1)
    np.testing.assert_array_equal(found, np.where(mirrored, 5, 1))
    np.testing.assert_array_equal(sides.actions(jnp.ones((1, 32), int))[0], found)
    assert 0 < mirrored.sum() < 32
