"""An objective of your own, used as it is: `python examples/new_objective.py [MODEL OUT]`."""

import sys
from dataclasses import dataclass
from pathlib import Path

from align import align
from torch import Tensor

from ddspo.objectives.base import Link


@dataclass(frozen=True)
class Exponential(Link):
    """loss = exp(-u): the exponential loss of boosting, which cares most for the pairs that are ranked worst."""

    def link(self, u: Tensor) -> Tensor:
        """exp(-u)."""
        return (-u).exp()


if __name__ == "__main__":
    model, out = sys.argv[1:3] if len(sys.argv) > 2 else ("package://ddspo.scenes/noise", "runs/exponential")
    print(align(model, Path(out), Exponential()))
