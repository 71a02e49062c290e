"""Rises exponentially to 1 at pure noise."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor
from typing_extensions import Doc

from ddspo.schedules.base import Schedule


@dataclass(frozen=True)
class Exponential(Schedule):
    """f(t) = exp(-rate (1 - t / T))."""

    rate: Annotated[float, Gt(0), Le(1e3), Doc("how fast it falls towards clean times")] = 5.0

    def __call__(self, progress: Tensor) -> Tensor:
        """Exponential of the distance to pure noise."""
        return torch.exp(-self.rate * (1 - progress))
