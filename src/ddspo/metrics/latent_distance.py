"""How far images are from real ones: the Frechet distance of features of a pipeline's own autoencoder."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from ddspo.maths.frechet import frechet_distance
from ddspo.metrics._latents import OverLatents
from ddspo.metrics._sets import two_sides
from ddspo.metrics.base import SetJudge


@dataclass(frozen=True)
class LatentDistance(OverLatents):
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of the autoencoder's features of a set and of the references."""

    title = "latent distance"
    higher_is_better = False
    needs_references = True

    @contextmanager
    def open(self, device: torch.device, references: Callable[[], Iterable[np.ndarray]] | None) -> Iterator[SetJudge]:
        """Load the autoencoder; the references are encoded when the first set is there."""
        with self.opened(device) as features:
            sides = two_sides(features, references, 2, "latent_distance")
            yield lambda images: {"distance": frechet_distance(*sides(images))}
