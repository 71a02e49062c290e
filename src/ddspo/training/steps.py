"""The step: two policy predictions a pair with gradient, and the frozen ones that the policy pair asks for."""

import torch

from ddspo.maths.pair import cat, split
from ddspo.objectives.base import Loss, Objective
from ddspo.policy_pairs.base import PolicyPair, View
from ddspo.training.policies import Policies


def preference_step(policies: Policies, policy_pair: PolicyPair, objective: Objective, view: View) -> Loss:
    """Loss of one noised batch of pairs: policy and reference see the same x_t and the undegraded prompt.

    With a training-free pair this costs 3 frozen and 2 policy predictions a pair. Frozen ones come first, because
    switching adapters between a forward and its backward would disturb the graph.
    """
    supervision = policy_pair.supervise(policies.frozen, view)
    condition = {name: torch.cat([rows, rows]) for name, rows in view.condition.items()}
    policy = split(policies.policy(cat(view.x_t), view.t.repeat(2), condition))
    weight = torch.ones_like(view.t, dtype=torch.float32)
    return objective(policy, supervision, weight)
