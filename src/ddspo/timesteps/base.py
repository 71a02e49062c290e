"""What a distribution of timesteps is."""

from abc import ABC, abstractmethod

from torch import Tensor


class Timesteps(ABC):
    """How often each time of the forward process is drawn."""

    @abstractmethod
    def __call__(self, u: Tensor) -> Tensor:
        """A place on the path, [B] in [0, 1) with 1 at pure noise, for uniform u in [0, 1), [B] float64; monotone."""
