"""Planning by tree search: mctx, given a world's functions.

    evaluate: latent `[B, ...]` -> logits `[B, A]`, value `[B]`
    step: (key, action `[B]`, latent) -> (Prediction, latent), one step of a world

A discount below zero says that the other player moves next: mctx multiplies values by it on the way
up, so every node's value is that of the player to move. Where the episode is over the discount is
zero, and nothing that is imagined behind that point counts.

mctx normalises action values by those of the parent and its other children. The papers take the
range of the whole tree (`tree_range`; always where chance moves): differences that are small beside
it stay small, and so does the noise of values that are hard to tell apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mctx
from flax import struct


class Search(NamedTuple):
    """What a search found out about each of B latents."""

    action: jax.Array
    """`[B]`, what to do"""
    policy: jax.Array
    """`[B, A]`, what a policy should learn from it"""
    value: jax.Array
    """`[B]`, the mean over all simulations"""
    tree: mctx.Tree
    """visit counts, values and latents of all nodes; where chance moves mctx leaves out what leads
    from its nodes on, and with it all but the first decisions"""


def gumbel_search(
    key,
    evaluate,
    step,
    latent,
    *,
    simulations: int,
    considered: int = 16,
    scale=1.0,
    tree_range: bool = False,
    illegal=None,
) -> Search:
    """Gumbel MuZero (Danihelka et al. 2022): the best action of a few drawn without replacement.

    The policy is that of the completed action values, softmax(logits + σ(q)): an improvement on the
    prior with as few as two simulations.

    Args:
      latent: where to search from, leaves `[B, ...]`.
      considered: actions drawn at the root at most; sequential halving decides among them.
      scale: of the noise that draws them; 0 to act greedily.
      tree_range: whether action values are measured by the range of the whole tree.
      illegal: `[B, A]`, true for actions that must not be taken at the root. Deeper in the tree
        `evaluate` forbids them, by logits of −1e9.
    """
    return _search(
        mctx.gumbel_muzero_policy,
        key,
        evaluate,
        latent,
        simulations,
        illegal,
        recurrent_fn=_recurrent(evaluate, step),
        qtransform=completed_in_range_of_tree
        if tree_range
        else mctx.qtransform_completed_by_mix_value,
        max_num_considered_actions=considered,
        gumbel_scale=scale,
    )


def puct_search(
    key,
    evaluate,
    step,
    latent,
    *,
    simulations: int,
    noise=0.25,
    concentration=0.3,
    temperature=1.0,
    tree_range: bool = False,
    illegal=None,
) -> Search:
    """MuZero as published (Schrittwieser et al. 2020, appendix B): PUCT with noise at the root.

    The policy is the share of visits; the action is drawn from it, sharpened by the temperature.

    Args:
      latent: where to search from, leaves `[B, ...]`.
      noise: share of Dirichlet noise in the root's prior. mctx draws it for all actions before it
        forbids the illegal ones, so that there is less of it where few are legal.
      concentration: of the Dirichlet distribution, for each action.
      temperature: 0 takes the action with most visits.
      tree_range, illegal: as in `gumbel_search`.
    """
    return _search(
        mctx.muzero_policy,
        key,
        evaluate,
        latent,
        simulations,
        illegal,
        recurrent_fn=_recurrent(evaluate, step),
        qtransform=in_range_of_tree if tree_range else mctx.qtransform_by_parent_and_siblings,
        dirichlet_fraction=noise,
        dirichlet_alpha=concentration,
        temperature=temperature,
    )


def stochastic_search(
    key,
    evaluate,
    decide,
    happen,
    latent,
    *,
    simulations: int,
    noise=0.25,
    concentration=0.3,
    temperature=1.0,
    illegal=None,
) -> Search:
    """`puct_search` in a world where chance moves after every action (Antonoglou et al. 2022).

    Between two decisions is a node of chance, from which outcomes are taken in proportion to their
    probability. Every one of these nodes takes a simulation as well: for the same depth there are
    twice as many to make.

    Args:
      decide: (action `[B]`, latent) -> (afterstate, logits `[B, C]` of what may happen, value
        `[B]`).
      happen: (outcome `[B]`, afterstate) -> (Prediction, latent).
    """

    def decision(_, key, action, latent):
        afterstate, logits, value = decide(action, latent)
        return mctx.DecisionRecurrentFnOutput(chance_logits=logits, afterstate_value=value), (
            afterstate
        )

    def chance(_, key, outcome, afterstate):
        prediction, latent = happen(outcome, afterstate)
        logits, value = evaluate(latent)
        output = mctx.ChanceRecurrentFnOutput(
            action_logits=logits,
            value=value,
            reward=prediction.reward,
            discount=prediction.discount,
        )
        return output, latent

    return _search(
        mctx.stochastic_muzero_policy,
        key,
        evaluate,
        latent,
        simulations,
        illegal,
        decision_recurrent_fn=decision,
        chance_recurrent_fn=chance,
        qtransform=in_range_of_tree,
        dirichlet_fraction=noise,
        dirichlet_alpha=concentration,
        temperature=temperature,
    )


def in_range_of_tree(tree: mctx.Tree, node):
    """Action values `[A]` at a `node`, from 0 for the least in the tree to 1 for the largest
    (Schrittwieser et al. 2020, eq. 5); 0 if unvisited. The tree is unbatched."""
    low, high = _range(tree)
    scaled = (tree.qvalues(node) - low) / jnp.maximum(high - low, 1e-8)
    return jnp.where(tree.children_visits[node] > 0, scaled, 0.0)


def completed_in_range_of_tree(tree: mctx.Tree, node):
    """What Gumbel's search adds to the logits `[A]` at a `node`: σ of the completed action values
    (Danihelka et al. 2022), measured by the range of the tree; 0 for the best.

    The root's own value is in that range, too: the first action visited has none by itself.
    """
    low, high = _range(tree)
    root = tree.raw_values[tree.ROOT_INDEX]
    span = jnp.maximum(high, root) - jnp.minimum(low, root)
    scaled = mctx.qtransform_completed_by_mix_value(tree, node, rescale_values=False)
    return (scaled - jnp.max(scaled)) / jnp.maximum(span, 1e-8)


def _range(tree: mctx.Tree):
    """The least and the largest value of all actions that were visited."""
    visited = tree.children_visits > 0
    values = tree.children_rewards + tree.children_discounts * tree.children_values
    low = jnp.min(values, where=visited, initial=jnp.inf)
    return low, jnp.max(values, where=visited, initial=-jnp.inf)


@struct.dataclass
class Node:
    """A latent with those of its actions that a search may take there."""

    latent: Any
    actions: jax.Array  # [B, K, ...]
    logits: jax.Array  # [B, K]
    value: jax.Array  # [B]


def sampled(propose, step):
    """A search over a few sampled actions where there are too many (Hubert et al. 2021).

    It takes places among the K proposals for actions, and `Node`s for latents. If the actions were
    drawn from β and the policy is π, the prior that is right on average is β̂/β · π, with β̂ the
    share of each among the K (eq. 7): logits log π − log β where no action is drawn twice.

    Args:
      propose: (key, latent `[B, ...]`) -> actions `[B, K, ...]`, logits `[B, K]`, value `[B]`.
      step: (key, action `[B, ...]`, latent) -> (Prediction, latent), one step of a world.
    Returns:
      `expand`, (key, latent) -> Node, which makes the root; and what the searches take for
      `evaluate` and `step`.
    """

    def expand(key, latent) -> Node:
        return Node(latent, *propose(key, latent))

    def evaluate(node: Node):
        return node.logits, node.value

    def step_to_node(key, place, node: Node):
        step_key, propose_key = jax.random.split(key)
        prediction, latent = step(step_key, chosen(node.actions, place), node.latent)
        return prediction, expand(propose_key, latent)

    return expand, evaluate, step_to_node


def chosen(actions, place):
    """The actions `[B, ...]` at `place [B]` of `actions [B, K, ...]`."""
    return jax.vmap(lambda actions, place: actions[place])(actions, place)


def improved_value(search: Search):
    """Σ π(a) q(a), `[B]`: what the policy that a search teaches is worth, by the values it found.

    The mean over all simulations is not that: sequential halving looks at actions that are then
    given up as often, at first, as at the best one. Unvisited actions have no say.
    """
    root = search.tree.summary()
    weight = jnp.where(root.visit_counts > 0, search.policy, 0.0)
    return jnp.sum(weight * root.qvalues, axis=-1) / jnp.maximum(weight.sum(axis=-1), 1e-8)


def _recurrent(evaluate, step):
    """What mctx expands a node with, where every step is one of a world."""

    def recurrent(_, key, action, latent):
        prediction, latent = step(key, action, latent)
        logits, value = evaluate(latent)
        output = mctx.RecurrentFnOutput(
            reward=prediction.reward, discount=prediction.discount, prior_logits=logits, value=value
        )
        return output, latent

    return recurrent


def _search(policy, key, evaluate, latent, simulations, illegal, **settings) -> Search:
    """What one of mctx's policies finds, with its own `settings`."""
    logits, value = evaluate(latent)
    output = policy(
        params=None,
        rng_key=key,
        root=mctx.RootFnOutput(prior_logits=logits, value=value, embedding=latent),
        num_simulations=simulations,
        invalid_actions=illegal,
        **settings,
    )
    tree = output.search_tree
    return Search(output.action, output.action_weights, tree.summary().value, tree)
