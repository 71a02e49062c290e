"""The logistic objective of DDSPO and Diffusion-DPO; which of the two it is, the policy pair decides."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Le
from torch import Tensor
from torch.nn.functional import softplus
from typing_extensions import Doc

from ddspo.maths.pair import Pair
from ddspo.maths.reward import margin
from ddspo.objectives.base import Loss, Objective, displacements, health
from ddspo.policy_pairs.base import Supervision


@dataclass(frozen=True)
class Logistic(Objective):
    """loss = mean(omega(t) softplus(-u)), u = R_win - R_lose (DDSPO, arXiv 2512.23426; Diffusion-DPO, 2311.12908).

    The gradient with respect to a prediction of D elements is sigma(-u) (beta / D) (d_win - a_win) / B for winners and
    the negative of the same for losers. The loss starts at omega log 2.
    """

    beta: Annotated[float, Gt(0), Le(1e9), Doc("inverse temperature, for errors that are means over dimensions")] = (
        2000.0
    )

    def __call__(self, policy: Pair[Tensor], supervision: Supervision, weight: Tensor) -> Loss:
        """Mean of omega softplus(-u) over the batch."""
        move = displacements(policy, supervision)
        u = margin(move.d, move.a, self.beta)
        return Loss((weight * softplus(-u)).mean(), health(move, self.beta))
