"""How much the images of one prompt differ, in features of a pipeline's own autoencoder."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from ddspo.metrics._latents import OverLatents
from ddspo.metrics._sets import groups_of, noted
from ddspo.metrics.base import SetJudge, Shown


@dataclass(frozen=True)
class LatentDiversity(OverLatents):
    """mean |f - f'| over all pairs of images of one prompt, f the autoencoder's features.

    Images that are smaller than the pipeline's own are taken as they are: enlarged they take longer and show no more.
    """

    title = "latent diversity"
    version = 2

    @contextmanager
    def open(self, device: torch.device, references: Callable[[], Iterable[np.ndarray]] | None) -> Iterator[SetJudge]:
        """Load the autoencoder."""
        with self.opened(device, enlarged=False) as features:

            def judge(images: Iterable[Shown]) -> dict[str, float]:
                items: list[str] = []
                found = features(noted(images, items))
                groups = groups_of(items, found, "latent_diversity")
                apart = [float((a - b).norm()) for group in groups for a, b in combinations(group, 2)]
                return {"diversity": float(np.mean(apart))}

            yield judge
