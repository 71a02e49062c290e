"""What a reference is: the weights that displacements start from, and how they follow the policy."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor


class Reference(ABC):
    """How the reference changes while the policy is trained.

    Attributes:
        moves: Whether it ever does; if so it starts as the policy does, and has weights of its own.
    """

    moves: ClassVar[bool] = True

    @abstractmethod
    def check(self, steps: int) -> str | None:
        """Why this reference would never move in a training of so many updates, or None."""

    @abstractmethod
    def follow(self, step: int, reference: Sequence[Tensor], policy: Sequence[Tensor]) -> None:
        """Move the reference's weights in place, after update number `step`, counted from 1."""
