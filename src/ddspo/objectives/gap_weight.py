"""Modifier: pairs count by how far their scores lie apart (the weights of SmPO)."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt
from torch import Tensor
from typing_extensions import Doc

from ddspo.objectives._modifier import Modifier
from ddspo.objectives.base import Branches, Needs


@dataclass(frozen=True)
class GapWeight(Modifier):
    """u becomes sharpness (2 p - 1) u with p = sigma(gap / spread), gap = score of the winner - that of the loser.

    (SmPO-Diffusion.) It is displacements that are scaled, by the root of that factor, so that an objective of errors
    has its errors |e|^2 times the factor in place of u. Scores that are equal leave nothing, a large gap `sharpness`
    times u; a gap below 0 counts as 0. Published: PickScores normalised by the range .1154 to .2820, so a spread of
    .1666, and a sharpness of 10.
    """

    sharpness: Annotated[float, Gt(0), Doc("factor of u that a very large gap gives")] = 10.0
    spread: Annotated[float, Gt(0), Doc("gap that counts as one, in the units of the scores")] = 0.1666

    @property
    def needs(self) -> Needs:
        """The gaps too, which pairs alone have."""
        return self.of.needs._replace(gap=True, label=False)

    def __call__(self, seen: Branches) -> Tensor:
        """The other objective, of weighed margins."""
        return self.of(self._weighed(seen))

    def margin(self, seen: Branches) -> Tensor | None:
        """The weighed margin."""
        return self.of.margin(self._weighed(seen))

    def averaged(self, seen: Branches) -> Tensor:
        """Of the weighed margins."""
        return self.of.averaged(self._weighed(seen))

    def _weighed(self, seen: Branches) -> Branches:
        """R, u and |e|^2 are quadratic in d and a together."""
        assert seen.gap is not None
        factor = self.sharpness * (2 * (seen.gap / self.spread).sigmoid() - 1).clamp(min=0)
        return seen.scaled(factor.sqrt())
