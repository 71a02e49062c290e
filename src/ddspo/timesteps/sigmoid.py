"""Noisy times more often: hardly any below the centre, all alike above it."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval
from torch import Tensor
from typing_extensions import Doc

from ddspo.maths.quantiles import sigmoid
from ddspo.timesteps.base import Timesteps


@dataclass(frozen=True)
class Sigmoid(Timesteps):
    """Density proportional to sigmoid(slope (tau - centre))."""

    slope: Annotated[float, Interval(ge=0.01, le=1e3), Doc("how sharply the density rises")] = 20.0
    centre: Annotated[float, Interval(ge=-1, le=2), Doc("where it is half of its height")] = 0.7

    def __call__(self, u: Tensor) -> Tensor:
        """The inverse distribution function."""
        return sigmoid(u, self.slope, self.centre)
