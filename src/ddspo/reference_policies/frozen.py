"""The model as it came, from the first update to the last."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ddspo.reference_policies.base import Reference


@dataclass(frozen=True)
class FrozenReference(Reference):
    """reference = base (DDSPO, Diffusion-DPO)."""

    moves = False

    def check(self, steps: int) -> str | None:
        """It does not move, as it says."""
        return None

    def follow(self, step: int, reference: Sequence[Tensor], policy: Sequence[Tensor]) -> None:
        """Stay."""
