"""Regression of the margin on the gap of two scores: how much better, not only which."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt
from torch import Tensor
from typing_extensions import Doc

from ddspo.objectives.base import Branches, Margin, Needs


@dataclass(frozen=True)
class Regression(Margin):
    """loss = (u - scale gap)^2, gap = score of the winner - score of the loser.

    The loss of CaPO (arXiv 2502.02588), whose scores are win rates in [0, 1] and whose scale is not known here; its
    choice of pairs along Pareto fronts is a matter of the data. A gap of 0 holds the margin at 0, one below 0 turns
    the pair round.
    """

    scale: Annotated[float, Gt(0), Doc("margin that a gap of 1 asks for, in the units of the scores")] = 1.0

    @property
    def needs(self) -> Needs:
        """The gaps."""
        return Needs(gap=True)

    @property
    def steady(self) -> bool:
        """It starts at (scale gap)^2, which is another for each batch."""
        return False

    def __call__(self, seen: Branches) -> Tensor:
        """(u - scale gap)^2."""
        assert seen.gap is not None
        return (self.margin(seen) - self.scale * seen.gap).square()
