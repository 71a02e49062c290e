"""The logistic objective of DDSPO and Diffusion-DPO; which of the two it is, the policy pair decides."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus

from ddspo.objectives.base import Link


@dataclass(frozen=True)
class Logistic(Link):
    """loss = softplus(-u), u = R_win - R_lose (DDSPO, arXiv 2512.23426; Diffusion-DPO, 2311.12908).

    The gradient with respect to a prediction of D elements is sigma(-u) (beta / D) (d_win - a_win) / B for winners and
    the negative of the same for losers. The loss starts at log 2. Diffusion-DPO's published beta is this one; that of
    the script of diffusers is half of it.
    """

    def link(self, u: Tensor) -> Tensor:
        """softplus(-u)."""
        return softplus(-u)
