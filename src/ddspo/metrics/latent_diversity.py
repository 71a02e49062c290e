"""How much the images of one prompt differ, in features of a pipeline's own autoencoder."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from typing_extensions import Doc

from ddspo.metrics._latents import autoencoder_of, opened
from ddspo.metrics._sets import mean_within, noted
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
                return {"diversity": mean_within(items, found, _apart, "latent_diversity")}

            yield judge


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm())
