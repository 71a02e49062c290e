"""How far images are from real ones: the Frechet Inception distance (Heusel et al. 2017, arXiv 1706.08500).

The network is that of torch-fidelity, the statistics are torchmetrics'. With few images it is far too large and says
little: 2048 features need several thousand images a side, and figures of other numbers of images do not compare.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from ddspo.metrics._inception import OverInception
from ddspo.metrics._sets import two_sides
from ddspo.metrics._torchmetrics import Given
from ddspo.metrics.base import SetJudge


@dataclass(frozen=True)
class FID(OverInception):
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of 2048 Inception features of a set and of the references."""

    title = "FID"
    higher_is_better = False
    needs_references = True

    @contextmanager
    def open(self, device: torch.device, references: Callable[[], Iterable[np.ndarray]] | None) -> Iterator[SetJudge]:
        """Load the network; the references go through it when the first set is there."""
        with self.opened(device, "features") as features:
            sides = two_sides(features, references, 2, "fid")
            yield lambda images: {"fid": _distance(*sides(images))}


def _distance(found: torch.Tensor, real: torch.Tensor) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    measure = FrechetInceptionDistance(Given(real))
    measure.update(real, real=True)
    measure.update(found, real=False)
    return float(measure.compute())
