"""The step: two policy predictions a pair with gradient, and the frozen ones that the policy pair asks for."""

import torch
from torch import Tensor

from ddspo.maths.pair import Pair, cat, split
from ddspo.objectives.base import Loss, Objective
from ddspo.pairs.view import View
from ddspo.policy_pairs.base import PolicyPair
from ddspo.training.drawing import PLAIN, Drawing, anchor, in_space
from ddspo.training.policies import Policies


def preference_step(
    policies: Policies, policy_pair: PolicyPair, objective: Objective, view: View, drawing: Drawing = PLAIN
) -> Loss:
    """Loss of one noised batch of pairs: policy and reference see the same x_t and the undegraded prompt.

    With a training-free pair this costs 3 frozen and 2 policy predictions a pair, or 2 and 1 where both branches look
    at one latent. Frozen ones come first, because switching adapters between a forward and its backward would disturb
    the graph.
    """
    supervision = policy_pair.supervise(policies.frozen, view)
    policy, supervision = in_space(_policy(policies, view), supervision, view.path, drawing.error_space, view.t)
    loss = objective(policy, supervision, drawing.weight(view.path.progress(view.t)))
    if not drawing.anchor:
        return loss
    return Loss(loss.value + drawing.anchor * anchor(policy, supervision), loss.log)


def _policy(policies: Policies, view: View) -> Pair[Tensor]:
    """The policy's predictions on both branches, in one forward."""
    if view.one_latent:
        prediction = policies.policy(view.x_t.win, view.t, view.condition)
        return Pair(prediction, prediction)
    condition = {name: torch.cat([rows, rows]) for name, rows in view.condition.items()}
    return split(policies.policy(cat(view.x_t), view.t.repeat(2), condition))
