"""How much the images of one prompt differ, in features of a pipeline's own autoencoder."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

import numpy as np
import torch
from typing_extensions import Doc

from ddspo.metrics._latents import autoencoder_of, opened
from ddspo.metrics._sets import groups_of, noted
from ddspo.metrics.base import SetJudge, SetMetric, Shown
from ddspo.weights import Hub


@dataclass(frozen=True)
class LatentDiversity(SetMetric):
    """mean |f - f'| over all pairs of images of one prompt, f the autoencoder's features."""

    title = "latent diversity"

    model: Annotated[str, Doc("folder, package:// or hub id of the pipeline whose autoencoder gives the features")]

    @property
    def weights(self) -> tuple[Hub]:
        """The autoencoder."""
        return (autoencoder_of(self.model),)

    @contextmanager
    def open(self, device: torch.device, references: Callable[[], Iterable[np.ndarray]] | None) -> Iterator[SetJudge]:
        """Load the autoencoder."""
        with opened(self.weights[0], device) as features:

            def judge(images: Iterable[Shown]) -> dict[str, float]:
                items: list[str] = []
                found = features(noted(images, items))
                groups = groups_of(items, found, "latent_diversity")
                apart = [float((a - b).norm()) for group in groups for a, b in combinations(group, 2)]
                return {"diversity": float(np.mean(apart))}

            yield judge
