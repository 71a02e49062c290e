"""DSPO, the form of its release for SDXL: a square of the preference's doubt, until the winner has moved far."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor
from typing_extensions import Doc

from ddspo.maths.reward import mean_square
from ddspo.objectives.base import Branches, Margin, Needs


@dataclass(frozen=True)
class DSPOSDXL(Margin):
    """loss = (1 - sigma(u))^2, and from a mean |d_win|^2 of `far` on |(1 - sigma(u)) d_win|^2 (Zhu et al., ICLR 2025).

    The mean runs over the whole batch of an update, which is predicted once more before it. The second form
    pulls the winner back to the reference. beta is the published one (1000 to 5000). The loss starts at 1/4.
    """

    far: Annotated[float, Gt(0), Doc("mean |d_win|^2 from which on the second form is used")] = 0.1

    @property
    def needs(self) -> Needs:
        """The mean of |d_win|^2."""
        return Needs(mean=True)

    def __call__(self, seen: Branches) -> Tensor:
        """(1 - sigma(u))^2, times |d_win|^2 where the policy is far."""
        assert seen.mean is not None
        doubt = (-self.margin(seen)).sigmoid().square()
        return torch.where(seen.mean < self.far, doubt, doubt * mean_square(seen.d.win))

    def averaged(self, seen: Branches) -> Tensor:
        """|d_win|^2."""
        return mean_square(seen.d.win)
