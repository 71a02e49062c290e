"""The step: the policy's predictions with gradient, and the frozen ones that policy pair and objective ask for."""

from dataclasses import replace

import torch
from torch import Tensor

from ddspo.conditions import Condition
from ddspo.objectives.base import Branches, Loss, Needs, Objective, branches, health
from ddspo.pairs.view import View
from ddspo.policy_pairs.base import Asked, PolicyPair, both, predicted
from ddspo.training.drawing import PLAIN, Drawing, anchor, in_space
from ddspo.training.policies import Policies


def needs_of(objective: Objective, drawing: Drawing) -> Needs:
    """What a step reads: what the objective does, and the reference if an anchor holds the policy near it."""
    needs = objective.needs
    return needs._replace(reference=needs.reference or drawing.anchor > 0)


def asked_of(policy_pair: PolicyPair, objective: Objective, drawing: Drawing) -> Asked:
    """The predictions that a step takes of a pair."""
    needs = needs_of(objective, drawing)
    return policy_pair.asks(one_latent=drawing.one_state, reference=needs.reference, lose=needs.lose)


def sides_read(objective: Objective, drawing: Drawing) -> tuple[str, ...]:
    """Of `win` and `lose` the latents that a step looks at."""
    return drawing.sides if objective.needs.lose else drawing.sides[:1]


def preference_step(
    policies: Policies, policy_pair: PolicyPair, objective: Objective, view: View, drawing: Drawing = PLAIN
) -> Loss:
    """Loss of one noised batch of pairs: policy and reference see the same x_t and the same prompt.

    With a training-free pair and an objective that reads both branches this costs 3 frozen and 2 policy predictions a
    pair, or 2 and 1 where both branches look at one latent. Frozen ones come first, because switching adapters between
    a forward and its backward would disturb the graph.
    """
    needs = needs_of(objective, drawing)
    seen = _seen(policies, policy_pair, needs, view, drawing)
    weight = drawing.weight(view.path.progress(view.t))
    value = (weight * objective(seen)).mean()
    log = health(seen, objective.margin(seen), needs)
    if drawing.anchor:
        value = value + drawing.anchor * anchor(seen)
    return Loss(value, log)


@torch.no_grad()
def survey(
    policies: Policies, policy_pair: PolicyPair, objective: Objective, view: View, drawing: Drawing = PLAIN
) -> Tensor:
    """What an objective wants the mean of over a whole batch, of some of its pairs; costs all forwards of a step."""
    return objective.averaged(_seen(policies, policy_pair, needs_of(objective, drawing), view, drawing))


def _seen(policies: Policies, policy_pair: PolicyPair, needs: Needs, view: View, drawing: Drawing) -> Branches:
    """Everything that an objective reads, in the space in which errors are measured."""
    reads = {"reference": needs.reference, "lose": needs.lose}
    supervision = policy_pair.supervise(policies.frozen, view, **reads)
    asked = policy_pair.asks(one_latent=view.one_latent, **reads)

    def policy(x_t: Tensor, t: Tensor, condition: Condition, who: str = "policy") -> Tensor:
        return policies.policy(x_t, t, condition)

    found = predicted(asked.trained, policy, view)
    seen = branches(both([found[ask] for ask in asked.policy]), supervision)
    seen = in_space(seen, view.path, drawing.error_space, view.t)
    return replace(seen, label=view.label, gap=view.gap, mean=view.mean)
