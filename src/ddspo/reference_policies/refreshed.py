"""The policy of some updates ago: after every so many updates it becomes the new reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor
from typing_extensions import Doc

from ddspo.reference_policies.base import Reference


@dataclass(frozen=True)
class RefreshedReference(Reference):
    """reference <- policy after updates every, 2 every, 3 every, ...; the base until then."""

    every: Annotated[int, Gt(0), Doc("updates between refreshments")] = 25

    def check(self, steps: int) -> str | None:
        """It needs an update after the first refreshment."""
        return None if self.every < steps else f"every {self.every} is never reached in {steps} updates: lower it"

    @torch.no_grad()
    def follow(self, step: int, reference: Sequence[Tensor], policy: Sequence[Tensor]) -> None:
        """Become the policy when it is time."""
        if step % self.every == 0:
            for mine, other in zip(reference, policy, strict=True):
                mine.copy_(other)
