"""Clean times more often: the density falls to zero at pure noise."""

from dataclasses import dataclass

from torch import Tensor

from ddspo.maths.quantiles import linear
from ddspo.timesteps.base import Timesteps


@dataclass(frozen=True)
class Linear(Timesteps):
    """Density 2 (1 - tau)."""

    def __call__(self, u: Tensor) -> Tensor:
        """1 - sqrt(1 - u)."""
        return linear(u)
