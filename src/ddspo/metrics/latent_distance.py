"""How far images are from real ones: the Frechet distance of features of a pipeline's own autoencoder."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from typing_extensions import Doc

from ddspo.maths.frechet import frechet_distance
from ddspo.metrics._latents import autoencoder_of, opened
from ddspo.metrics._sets import two_sides
from ddspo.metrics.base import SetJudge, SetMetric
from ddspo.weights import Hub


@dataclass(frozen=True)
class LatentDistance(SetMetric):
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of the autoencoder's features of a set and of the references."""

    title = "latent distance"
    higher_is_better = False
    needs_references = True

    model: Annotated[str, Doc("folder, package:// or hub id of the pipeline whose autoencoder gives the features")]

    @property
    def weights(self) -> tuple[Hub]:
        """The autoencoder."""
        return (autoencoder_of(self.model),)

    @contextmanager
    def open(self, device: torch.device, references: Callable[[], Iterable[np.ndarray]] | None) -> Iterator[SetJudge]:
        """Load the autoencoder; the references are encoded when the first set is there."""
        with opened(self.weights[0], device) as features:
            sides = two_sides(features, references, 2, "latent_distance")
            yield lambda images: {"distance": frechet_distance(*sides(images))}
