"""Tree search on games and worlds whose right answers are known."""

from functools import partial

import distrax
import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest

from dreamerzero import agents, envs
from dreamerzero.planning import (
    chosen,
    gumbel_search,
    improved_value,
    puct_search,
    sampled,
    stochastic_search,
)
from dreamerzero.planning.search import completed_in_range_of_tree, in_range_of_tree
from dreamerzero.types import Prediction

FORBIDDEN = -1e9
SEARCHES = {
    "gumbel": partial(gumbel_search, considered=3, scale=0.0),
    "puct": partial(puct_search, temperature=0.0, noise=0.0),
}
both = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


class Nim:
    """Two players in turn take 1, 2 or 3 stones; who takes the last one wins. With perfect play
    the player to move loses exactly the piles that four divides, and wins by leaving such a one."""

    @staticmethod
    def illegal(pile):
        return jnp.arange(1, 4) > pile[:, None]

    @classmethod
    def evaluate(cls, pile):
        return jnp.where(cls.illegal(pile), FORBIDDEN, 0.0), jnp.zeros(pile.shape)

    @staticmethod
    def step(key, action, pile):
        pile = pile - action - 1
        won = (pile == 0).astype(jnp.float32)
        return Prediction(won, jnp.where(pile > 0, -1.0, 0.0)), pile


@both
def test_nim_is_won_from_every_pile_that_can_be_won(search):
    piles = jnp.arange(1, 10)
    found = jax.jit(
        lambda key: search(
            key, Nim.evaluate, Nim.step, piles, simulations=400, illegal=Nim.illegal(piles)
        )
    )(jax.random.key(0))
    lost = np.asarray(piles) % 4 == 0
    np.testing.assert_array_equal(found.action[~lost] + 1, piles[~lost] % 4)
    # Values are those of the player to move.
    values = jnp.take_along_axis(found.tree.summary().qvalues, found.action[:, None], axis=1)[:, 0]
    assert (np.asarray(values)[~lost] > 0.5).all()
    assert (np.asarray(values)[lost] < -0.5).all()


@both
def test_no_illegal_action_is_taken_learnt_or_expanded(search):
    piles = jnp.repeat(jnp.arange(1, 6), 8)
    found = search(
        jax.random.key(1), Nim.evaluate, Nim.step, piles, simulations=64, illegal=Nim.illegal(piles)
    )
    assert (found.action + 1 <= piles).all()
    np.testing.assert_allclose(jnp.where(Nim.illegal(piles), found.policy, 0.0), 0.0, atol=1e-6)
    tree = found.tree
    stones = tree.embeddings  # [B, N] piles at every node
    illegal = jax.vmap(Nim.illegal)(stones)
    under_way = (tree.node_visits > 0) & (stones > 0)  # behind the end nothing counts
    visits = jnp.where(illegal & under_way[..., None], tree.children_visits, 0)
    assert not visits.any()
    assert (tree.node_visits[:, 0] == 65).all()


@both
def test_nothing_counts_behind_the_end(search):
    """Action 1 ends the episode with 1; what a world dreams up behind it is worth 100 a step."""

    def evaluate(over):
        return jnp.zeros((*over.shape, 2)), jnp.where(over, 100.0, 0.0)

    def step(key, action, over):
        ends = action == 1
        reward = jnp.where(over, 100.0, jnp.where(ends, 1.0, 0.0))
        return Prediction(reward, jnp.where(over | ends, 0.0, 0.9)), over | ends

    found = search(jax.random.key(0), evaluate, step, jnp.zeros(4, bool), simulations=50)
    assert (found.action == 1).all()
    assert (found.value < 1.0).all()


def test_the_adapter_is_mctx_and_nothing_else():
    def evaluate(latent):
        return jnp.sin(latent[:, None] * jnp.arange(1, 5)), jnp.cos(latent)

    def step(key, action, latent):
        latent = latent + 0.1 * action + 0.01 * jax.random.normal(key, latent.shape)
        return Prediction(jnp.sin(latent), jnp.full(latent.shape, 0.9)), latent

    def recurrent(params, key, action, latent):
        prediction, latent = step(key, action, latent)
        logits, value = evaluate(latent)
        output = mctx.RecurrentFnOutput(
            reward=prediction.reward, discount=prediction.discount, prior_logits=logits, value=value
        )
        return output, latent

    key, latent = jax.random.key(3), jnp.linspace(0.0, 1.0, 6)
    logits, value = evaluate(latent)
    root = mctx.RootFnOutput(prior_logits=logits, value=value, embedding=latent)
    for search, policy, by_tree in (
        (gumbel_search, mctx.gumbel_muzero_policy, completed_in_range_of_tree),
        (puct_search, mctx.muzero_policy, in_range_of_tree),
    ):
        values = []
        for setting, qtransform in (({}, {}), ({"tree_range": True}, {"qtransform": by_tree})):
            ours = search(key, evaluate, step, latent, simulations=16, **setting)
            theirs = policy(None, key, root, recurrent, 16, **qtransform)
            np.testing.assert_array_equal(ours.action, theirs.action)
            np.testing.assert_array_equal(ours.policy, theirs.action_weights)
            np.testing.assert_array_equal(ours.value, theirs.search_tree.summary().value)
            values.append(ours.value)
        assert (values[0] != values[1]).any()


def test_action_values_are_told_by_the_range_of_the_tree():
    """Against a loop over all edges, in a walk whose rewards grow with the place."""

    def step(key, action, place):
        place = 2 * place + action
        return Prediction(jnp.sin(place) * place, jnp.full(place.shape, 0.9)), place

    def evaluate(place):
        return jnp.zeros((len(place), 2)), jnp.cos(place)

    found = puct_search(jax.random.key(0), evaluate, step, jnp.array([1.0]), simulations=20)
    tree = jax.tree.map(lambda leaf: leaf[0], found.tree)
    values = {}
    for node in range(21):
        for action in range(2):
            child = tree.children_index[node, action]
            if child >= 0:
                reward = tree.children_rewards[node, action]
                values[node, action] = float(reward + 0.9 * tree.node_values[child])
    low, high = min(values.values()), max(values.values())
    for node in range(21):
        edges = [values.get((node, action), low) for action in range(2)]
        expected = (np.array(edges) - low) / (high - low)
        np.testing.assert_allclose(in_range_of_tree(tree, node), expected, atol=1e-5)
    assert len(values) == 20


def test_completed_values_are_told_by_the_range_of_the_tree():
    """Against the definitions, in numpy: unvisited actions have the mixed value of the appendix of
    Danihelka et al., and σ(q) = (50 + max N) q / 10, here with q over the range of all in the tree
    and the root. Where nothing is visited no action is better than another."""

    def step(key, action, place):
        place = 3 * place + action
        return Prediction(jnp.sin(place) * place, jnp.full(place.shape, 0.9)), place

    def evaluate(place):
        return jnp.cos(place[:, None] * jnp.arange(1, 4)), jnp.cos(place)

    found = gumbel_search(
        jax.random.key(0), evaluate, step, jnp.array([1.0]), simulations=12, tree_range=True
    )
    tree = jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), found.tree)
    children = tree.children_index.astype(int)
    q = tree.children_rewards + 0.9 * np.where(children >= 0, tree.node_values[children], 0.0)
    seen = np.append(q[children >= 0], tree.raw_values[0])
    unbatched = jax.tree.map(lambda leaf: leaf[0], found.tree)
    partly = 0
    for node in range(13):
        visits, there = tree.children_visits[node], children[node] >= 0
        prior = np.exp(tree.children_prior_logits[node])
        mixed = tree.raw_values[node]
        if there.any():
            mean = (prior * q[node])[there].sum() / prior[there].sum()
            mixed = (mixed + visits.sum() * mean) / (1 + visits.sum())
        completed = np.where(there, q[node], mixed)
        sigma = (50 + visits.max()) / 10 * (completed - completed.max()) / np.ptp(seen)
        np.testing.assert_allclose(completed_in_range_of_tree(unbatched, node), sigma, atol=1e-3)
        partly += there.any() and not there.all()
    assert partly


def test_sampled_priors_are_right_on_average():
    """Four actions by enumeration: drawn from another distribution than the policy, corrected by
    β̂/β · π they weigh what they weigh in the policy (Hubert et al. 2021, eq. 7)."""
    policy = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
    proposal = distrax.Categorical(logits=0.5 * policy)  # π^(1/2)

    def propose(key, latent):
        actions = proposal.sample(seed=key, sample_shape=(len(latent), 4000))
        logits = policy[actions] - proposal.log_prob(actions)
        return actions, logits, jnp.zeros(len(latent))

    expand, evaluate, _ = sampled(propose, None)
    root = expand(jax.random.key(0), jnp.zeros(2))
    prior = jax.nn.softmax(evaluate(root)[0])
    weight = jax.vmap(lambda p, a: jnp.bincount(a, p, length=4))(prior, root.actions)
    np.testing.assert_allclose(weight, np.tile([0.1, 0.2, 0.3, 0.4], (2, 1)), atol=0.02)


def test_a_sampled_search_steps_through_the_actions_it_drew():
    """Nodes hold what the world says of the actions themselves, and fresh proposals. Rewards
    prefer 0.6 in every state: the best of what was drawn is chosen."""

    def propose(key, latent):
        actions = jax.random.uniform(key, (len(latent), 8), minval=-1.0, maxval=1.0)
        return actions, jnp.zeros(actions.shape), jnp.zeros(len(latent))

    def step(key, action, latent):
        reward = -jnp.square(action - 0.6)
        return Prediction(reward, jnp.zeros(action.shape)), 2.0 * latent + action

    expand, evaluate, step_to_node = sampled(propose, step)
    root = expand(jax.random.key(0), jnp.linspace(0.0, 1.0, 5))
    found = gumbel_search(
        jax.random.key(1), evaluate, step_to_node, root, simulations=64, considered=8, scale=0.0
    )
    best = jnp.argmin(jnp.abs(root.actions - 0.6), axis=1)
    np.testing.assert_array_equal(found.action, best)
    np.testing.assert_array_equal(
        chosen(root.actions, found.action), root.actions[jnp.arange(5), best]
    )
    tree = found.tree
    actions, latents = tree.embeddings.actions, tree.embeddings.latent
    for b, parent, place in np.argwhere(np.asarray(tree.children_index) >= 0)[:100]:
        child = tree.children_index[b, parent, place]
        expected = 2.0 * latents[b, parent] + actions[b, parent, place]
        np.testing.assert_allclose(latents[b, child], expected, rtol=1e-5)
    assert not np.allclose(actions[:, 0], actions[:, 1])


def test_a_dreamer_can_be_searched():
    """The RSSM with the agent's own policy and critic, as they are."""
    env = envs.make("CartPole-v1")
    agent = agents.make("dreamer", env, "xs", deter=16, hidden=8, stoch=2, units=8, blocks=2)
    state = jax.jit(agent.init)(jax.random.key(0))
    params = state.params

    def evaluate(latent):
        return agent.policy(params, latent.features).logits, agent.value(params, latent)

    found = jax.jit(
        lambda key: gumbel_search(
            key,
            evaluate,
            partial(agent.world.step, params["world"]),
            agent.world.initial(3),
            simulations=8,
        )
    )(jax.random.key(1))
    assert found.action.shape == found.value.shape == (3,)
    np.testing.assert_allclose(found.policy.sum(axis=-1), 1.0, rtol=1e-5)


def test_chance_is_weighed_by_its_probability():
    """Two actions with two outcomes each, two times over, against the expectimax of all of them."""
    rng = np.random.default_rng(0)
    actions, outcomes = 3, 2
    nodes = 1 + actions * outcomes  # the root, and what the first action leads to
    reward = rng.normal(size=(nodes, actions, outcomes))
    chances = rng.dirichlet(np.ones(outcomes), size=(nodes, actions))
    later = (chances * reward)[1:].sum(axis=-1).max(axis=-1).reshape(actions, outcomes)
    expected = (chances[0] * (reward[0] + 0.9 * later)).sum(axis=-1)

    def evaluate(node):
        return jnp.zeros((*node.shape, actions)), jnp.zeros(node.shape)

    def decide(action, node):
        logits = jnp.log(jnp.array(chances))[node, action]
        return (node, action), logits, jnp.zeros(node.shape)

    def happen(outcome, afterstate):
        node, action = afterstate
        over = node > 0
        prediction = Prediction(
            jnp.float32(jnp.array(reward)[node, action, outcome]), jnp.where(over, 0.0, 0.9)
        )
        return prediction, jnp.where(over, node, 1 + action * outcomes + outcome)

    search = partial(stochastic_search, simulations=4000, noise=0.0, temperature=0.0)
    found = jax.jit(search, static_argnums=(1, 2, 3))(
        jax.random.key(0), evaluate, decide, happen, jnp.zeros(1, jnp.int32)
    )
    best = int(expected.argmax())
    assert found.action[0] == best
    values = found.tree.summary().qvalues[0]
    np.testing.assert_allclose(values[best], expected[best], atol=0.05)


def test_the_improved_value_is_that_of_the_policy_and_not_of_all_that_was_tried():
    """Five arms with rewards that are known, three of them tried, a prior that knows nothing."""
    arms = jnp.array([0.0, 1.0, 2.0, 3.0, 10.0])

    def evaluate(latent):
        return jnp.zeros((len(latent), 5)), jnp.zeros(len(latent))

    def step(key, action, latent):
        return Prediction(arms[action], jnp.zeros(action.shape)), latent

    settings = {"simulations": 3, "considered": 4, "scale": 0.0}
    found = jax.jit(
        lambda root: gumbel_search(jax.random.key(0), evaluate, step, root, **settings)
    )(jnp.zeros(2))
    tried = found.tree.summary().visit_counts > 0
    assert (tried.sum(axis=-1) == 3).all()
    weight = jnp.where(tried, found.policy, 0.0)
    expected = (weight @ arms) / weight.sum(axis=-1)
    np.testing.assert_allclose(improved_value(found), expected, rtol=1e-5)
    assert (improved_value(found) > found.value).all()
