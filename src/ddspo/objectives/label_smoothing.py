"""Modifier: some labels are believed to be wrong, so a share of each loss is that of the pair turned round."""

from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor
from typing_extensions import Doc

from ddspo.maths.pair import Pair
from ddspo.objectives._modifier import Modifier
from ddspo.objectives.base import Branches, Needs


@dataclass(frozen=True)
class LabelSmoothing(Modifier):
    """loss = (1 - share) loss(win, lose) + share loss(lose, win): conservative DPO with the logistic objective inside.

    With u the margin that is (1 - share) softplus(-u) + share softplus(u), least at u = log((1 - share) / share)
    (Mitchell 2023, A note on DPO with noisy preferences). A pair that is turned round keeps its gap: its loser is the
    better one by that much. A single sample that was wanted is then unwanted.
    """

    share: Annotated[float, Ge(0), Lt(0.5), Doc("of the pairs whose label is believed to be wrong")] = 0.1

    @property
    def needs(self) -> Needs:
        """Losers too, which may be winners."""
        return self.of.needs._replace(lose=True)

    def __call__(self, seen: Branches) -> Tensor:
        """Both ways round."""
        return (1 - self.share) * self.of(seen) + self.share * self.of(_turned(seen))


def _turned(seen: Branches) -> Branches:
    if seen.label is not None:
        return replace(seen, label=-seen.label)
    return replace(seen, d=Pair(seen.d.lose, seen.d.win), a=Pair(seen.a.lose, seen.a.win))
