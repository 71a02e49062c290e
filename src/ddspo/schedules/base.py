"""What a schedule is."""

from abc import ABC, abstractmethod

from torch import Tensor


class Schedule(ABC):
    """A number that depends on how noisy a pair is: its weight omega(t), or the probability of a draw."""

    @abstractmethod
    def __call__(self, progress: Tensor) -> Tensor:
        """The value at t / T in [0, 1], [B] to [B]; 1 is pure noise."""
