"""Rises from nearly 0 to nearly 1 around a centre: noisy times only."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Interval, Le
from torch import Tensor
from typing_extensions import Doc

from ddspo.schedules.base import Schedule


@dataclass(frozen=True)
class Sigmoid(Schedule):
    """f(t) = 1 / (1 + exp(-slope (t / T - centre)))."""

    slope: Annotated[float, Gt(0), Le(1e3), Doc("how sharply it rises")] = 20.0
    centre: Annotated[
        float,
        Interval(ge=-1, le=2),
        Doc("where it is one half: 0.7 for random conditions, 0.825 for the authors' early weight"),
    ] = 0.7

    def __call__(self, progress: Tensor) -> Tensor:
        """The logistic function of the distance to the centre."""
        return torch.sigmoid(self.slope * (progress - self.centre))
