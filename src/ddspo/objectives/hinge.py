"""The hinge: a pair teaches until its margin is 1, and then no more."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import relu

from ddspo.objectives.base import Link


@dataclass(frozen=True)
class Hinge(Link):
    """loss = max(0, 1 - u) (SLiC, Zhao et al. 2023, arXiv 2305.10425, as the DPO script of diffusers has it).

    That script's beta is half of this one. The loss starts at 1.
    """

    def link(self, u: Tensor) -> Tensor:
        """max(0, 1 - u)."""
        return relu(1 - u)
