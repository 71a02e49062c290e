"""How far images are from real ones: the kernel Inception distance (Binkowski et al. 2018, arXiv 1801.01401).

Unlike FID it has no bias, so that it says something of a few hundred images. The network is that of torch-fidelity,
the statistics are torchmetrics'.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt
from typing_extensions import Doc

from ddspo.metrics._inception import OverInception
from ddspo.metrics._sets import two_sides
from ddspo.metrics._torchmetrics import Given, repeatable, sorted_rows
from ddspo.metrics.base import SetJudge


@dataclass(frozen=True)
class KID(OverInception):
    """Unbiased squared MMD of 2048 Inception features, kernel (<f, f'> / 2048 + 1)^3: mean over random subsets."""

    title = "KID"
    higher_is_better = False
    needs_references = True

    subsets: Annotated[int, Gt(0), Doc("random subsets of both sides")] = 100
    subset_size: Annotated[int, Ge(2), Doc("images of each; both sides must have as many")] = 1000

    @contextmanager
    def open(self, device: torch.device, references: Callable[[], Iterable[np.ndarray]] | None) -> Iterator[SetJudge]:
        """Load the network; the references go through it when the first set is there."""
        with self.opened(device, "features") as features:
            sides = two_sides(features, references, self.subset_size, "kid")
            yield lambda images: self._distance(*sides(images))

    def _distance(self, found: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        from torchmetrics.image.kid import KernelInceptionDistance

        with repeatable():
            measure = KernelInceptionDistance(Given(real), subsets=self.subsets, subset_size=self.subset_size)
            measure.update(sorted_rows(real), real=True)
            measure.update(sorted_rows(found), real=False)
            mean, deviation = measure.compute()
        return {"kid": float(mean), "deviation": float(deviation)}
