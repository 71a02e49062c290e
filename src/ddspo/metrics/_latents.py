"""Features of images by a pipeline's own autoencoder: a small code, averaged over 4 x 4 cells."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from typing_extensions import Doc

from ddspo.metrics._sets import Features, in_parts, joined
from ddspo.metrics.base import SetMetric
from ddspo.weights import Hub

AT_ONCE = 64
"""Images that are in memory at once."""


@dataclass(frozen=True)
class OverLatents(SetMetric):
    """Measures features of a pipeline's own autoencoder."""

    model: Annotated[str, Doc("folder, package:// or hub id of the pipeline whose autoencoder gives the features")]

    @property
    def weights(self) -> tuple[Hub]:
        """The autoencoder, whose licence is the pipeline's."""
        autoencoder = Hub(
            size=0.34e9,  # of the usual kind in single precision
            licence="the pipeline's own",
            commercial=True,
            place=self.model,
            files=("vae/*.safetensors",),
            index="model_index.json",
        )
        return (autoencoder,)

    @contextmanager
    def opened(self, device: torch.device) -> Iterator[Features]:
        """The features [N, F] of images made to fit the pipeline, of which a few are in memory."""
        from ddspo.backbones._lone_autoencoder import lone_autoencoder  # it imports diffusers

        backbone = lone_autoencoder(self.weights[0].path(), torch.float32, device)

        def features(images: Iterable[np.ndarray]) -> torch.Tensor:
            return joined(backbone.features(part) for part in in_parts(map(backbone.fit, images), AT_ONCE))

        yield features
