"""A moving average of the policy: the margin is measured from where the policy was lately."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from torch import Tensor
from typing_extensions import Doc

from ddspo.reference_policies.base import Reference


@dataclass(frozen=True)
class EMAReference(Reference):
    """reference <- decay reference + (1 - decay) policy after every update, weight by weight, from the base on.

    Of a LoRA, A and B are averaged each on its own.
    """

    decay: Annotated[float, Gt(0), Lt(1), Doc("share that the reference keeps at each update")] = 0.99

    def check(self, steps: int) -> str | None:
        """It moves at every update."""
        return None

    @torch.no_grad()
    def follow(self, step: int, reference: Sequence[Tensor], policy: Sequence[Tensor]) -> None:
        """Take one step towards the policy."""
        for mine, other in zip(reference, policy, strict=True):
            mine.lerp_(other, 1 - self.decay)
