"""How far images are from real ones: the Frechet distance of features of a pipeline's own autoencoder."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Annotated

import numpy as np
import torch
from typing_extensions import Doc

from ddspo.errors import InputError
from ddspo.maths.frechet import frechet_distance
from ddspo.metrics._latents import autoencoder_of, features, opened
from ddspo.metrics.base import SetJudge, SetMetric, Shown
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
        if references is None:
            raise InputError("latent_distance: it measures against real images: give references")
        with opened(self.weights[0], device) as backbone:
            real = cache(lambda: features(backbone, references()))

            def judge(images: Iterable[Shown]) -> dict[str, float]:
                found = features(backbone, (each.image for each in images))
                if min(len(found), len(real())) < 2:
                    raise InputError("latent_distance: a distance takes two or more images of each side: give more")
                return {"distance": frechet_distance(found, real())}

            yield judge
