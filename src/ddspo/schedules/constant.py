"""The same number at every time."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor
from typing_extensions import Doc

from ddspo.schedules.base import Schedule


@dataclass(frozen=True)
class Constant(Schedule):
    """f(t) = value."""

    value: Annotated[float, Ge(0), Le(1e6), Doc("at every time")] = 1.0

    def __call__(self, progress: Tensor) -> Tensor:
        """The value, in the shape of `progress`."""
        return torch.full_like(progress, self.value)
