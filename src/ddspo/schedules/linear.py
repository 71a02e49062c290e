"""Rises in proportion to time: more at noisy times."""

from dataclasses import dataclass

from torch import Tensor

from ddspo.schedules.base import Schedule


@dataclass(frozen=True)
class Linear(Schedule):
    """f(t) = t / T; its mean over uniform times is one half."""

    def __call__(self, progress: Tensor) -> Tensor:
        """t / T itself."""
        return progress
