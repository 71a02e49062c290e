"""An objective of your own, used as it is: `python examples/new_objective.py [MODEL OUT]`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from align import align
from annotated_types import Gt
from torch import Tensor
from typing_extensions import Doc

from ddspo.maths.pair import Pair
from ddspo.maths.reward import margin
from ddspo.objectives.base import Loss, Objective, displacements, health
from ddspo.policy_pairs.base import Supervision


@dataclass(frozen=True)
class IPO(Objective):
    """loss = mean(omega(t) (u - 1/2)^2): IPO (arXiv 2310.12036) times beta^2, with a finite optimum at u = 1/2."""

    beta: Annotated[float, Gt(0), Doc("inverse temperature, for errors that are means over dimensions")] = 2000.0

    def __call__(self, policy: Pair[Tensor], supervision: Supervision, weight: Tensor) -> Loss:
        """Mean of omega (u - 1/2)^2 over the batch."""
        move = displacements(policy, supervision)
        u = margin(move.d, move.a, self.beta)
        return Loss((weight * (u - 0.5).square()).mean(), health(move, self.beta))


if __name__ == "__main__":
    model, out = sys.argv[1:3] if len(sys.argv) > 2 else ("package://ddspo.scenes/noise", "runs/ipo")
    print(align(model, Path(out), IPO()))
