"""Search in the true rules: what must be played is played, and nothing illegal is looked at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamerzero import agents, envs
from dreamerzero.types import TimeStep, UsageError

FIELDS = {
    "num_envs": 4,
    "capacity": 4000,
    "td_steps": 9,
    "latent": 8,
    "layers": 1,
    "units": 16,
    "support": 1,
    "discount": 1.0,
}
X, O, _ = "XO."  # noqa: E741


def after(env, moves):
    """The game after these moves, as a batch of one."""
    state, _ = env.reset(jax.random.key(0))
    for move in moves:
        state = env.environment.game.step(state, move)
    return timestep(jax.tree.map(lambda leaf: leaf[None], state))


def timestep(state):
    no = jnp.zeros(state.terminated.shape, bool)
    return TimeStep(
        observation=state.observation,
        reward=jnp.zeros(no.shape),
        terminated=no,
        truncated=no,
        is_first=no,
        legal=state.legal_action_mask,
        state=state,
    )


@pytest.mark.parametrize(
    ("name", "moves", "best"),
    [
        ("TicTacToe-pgx", (0, 3, 1, 4), {2}),  # wins in one, and does not block instead
        ("TicTacToe-pgx", (0, 4, 1), {2}),  # must block
        ("TicTacToe-pgx", (0, 4, 8), {1, 3, 5, 7}),  # a corner would lose in three
        ("ConnectFour-pgx", (3, 0, 3, 0, 3, 0), {3}),
        ("ConnectFour-pgx", (3, 0, 3, 0, 3), {3}),
    ],
)
@pytest.mark.parametrize("search", ["gumbel", "puct"])
def test_an_untrained_network_finds_what_the_rules_say(name, moves, best, search):
    env = envs.make(name)
    agent = agents.make("alphazero", env, **FIELDS | {"search": search, "simulations": 400})
    params = agent.init(jax.random.key(0)).params
    now = after(env, moves)
    act = jax.jit(lambda key: agent.act(params, key, now, (), explore=False).action)
    assert {int(act(jax.random.key(seed))[0]) for seed in range(5)} <= best


@pytest.mark.parametrize("search", ["gumbel", "puct"])
@pytest.mark.parametrize("name", ["TicTacToe-pgx", "ConnectFour-pgx"])
def test_no_illegal_move_is_chosen_learnt_or_expanded(name, search):
    env = envs.make(name)
    agent = agents.make("alphazero", env, **FIELDS | {"search": search, "simulations": 40})
    params = agent.init(jax.random.key(0)).params
    game = env.environment.game

    def position(key):
        """After a random number of random moves, of a game that goes on."""
        length = jax.random.randint(key, (), 0, most)

        def move(i, state):
            logits = jnp.where(state.legal_action_mask, 0.0, -jnp.inf)
            action = jax.random.categorical(jax.random.fold_in(key, i), logits)
            after = game.step(state, action)
            go = (i < length) & ~after.terminated
            return jax.tree.map(lambda a, b: jnp.where(go, a, b), after, state)

        return jax.lax.fori_loop(0, most, move, game.init(key))

    most = 8 if name == "TicTacToe-pgx" else 36
    states = jax.jit(jax.vmap(position))(jax.random.split(jax.random.key(1), 64))
    now = timestep(states)
    choose = jax.jit(
        lambda key: agent.plan(
            params,
            params["world"],
            key,
            agent.root(params, params["world"], now),
            explore=True,
            legal=now.legal,
        )
    )
    choice = choose(jax.random.key(2))
    legal = np.asarray(now.legal)
    assert (~legal).any()
    assert legal[np.arange(64), choice.action].all()
    np.testing.assert_allclose(choice.lesson.policy[~legal], 0.0, atol=1e-6)
    tree = choice.search.tree
    nodes = tree.embeddings[1]  # [B, N] positions
    going_on = ~nodes.terminated & (tree.node_visits > 0)  # behind the end nothing counts
    bad = going_on[..., None] & ~nodes.legal_action_mask & (tree.children_visits > 0)
    assert not bad.any()


def test_it_needs_rules():
    with pytest.raises(UsageError, match="Try muzero"):
        agents.make("alphazero", envs.make("CartPole-v1"))
    with pytest.raises(UsageError, match="no reanalysed"):
        agents.make("alphazero", envs.make("TicTacToe-pgx"), reanalysed=0.5)
    tic_tac_toe = envs.make("TicTacToe-pgx")
    with pytest.raises(UsageError, match=r"parameters of its own\. Make them the defaults"):
        agents.make(
            "alphazero",
            tic_tac_toe.replace(params=tic_tac_toe.params.replace(max_steps_in_episode=7)),
        )
    with pytest.raises(UsageError, match=r"that an id stands for\. Cannot build"):
        agents.make("alphazero", envs.wrap(tic_tac_toe.environment))
