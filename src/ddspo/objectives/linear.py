"""Linear-DPO: the pair's weight is a clipped straight line in its margin, and is not differentiated."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor
from typing_extensions import Doc

from ddspo.objectives.base import Link


@dataclass(frozen=True)
class Linear(Link):
    """loss = -(2 / beta) w u with w = clip(1/2 - (2/5) u, eta, 1 - eta) held fixed (Linear-DPO, arXiv 2605.21123).

    -(2 / beta) u is L_win - L_lose less its value at the reference, so that the gradient is the published
    w (dL_win - dL_lose), and the loss starts at 0. There is no beta in it: learning rates are about beta / 2 times
    those of the logistic loss. beta, here in w alone, is the published one (100 for SD 1.5, 500 for SDXL). The
    reference that follows the policy is `reference: ema`.
    """

    eta: Annotated[float, Ge(0), Lt(0.5), Doc("least weight of a pair, however well it is ranked")] = 1e-3

    def link(self, u: Tensor) -> Tensor:
        """-(2 / beta) w u."""
        weight = (0.5 - 0.4 * u.detach()).clamp(self.eta, 1 - self.eta)
        return -2 / self.beta * weight * u
