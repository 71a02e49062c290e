"""Features of images by a pipeline's own autoencoder: a small code, averaged over 4 x 4 cells."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
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
    def opened(self, device: torch.device, *, enlarged: bool = True) -> Iterator[Features]:
        """The features [N, F] of images made to fit the pipeline, of which a few are in memory.

        Args:
            device: Where the autoencoder is.
            enlarged: Whether smaller images are brought to the pipeline's side too, or only cropped to squares.
        """
        from ddspo.backbones._lone_autoencoder import lone_autoencoder  # it imports diffusers

        backbone = lone_autoencoder(self.weights[0].path(), torch.float32, device)

        def fit(image: np.ndarray) -> np.ndarray:
            own = max(1, min(image.shape[:2]) // backbone.scale) * backbone.scale
            if enlarged or own >= min(backbone.call["height"], backbone.call["width"]):
                return backbone.fit(image)
            return backbone.autoencoder.fit(image, own, own, "crop")

        def features(images: Iterable[np.ndarray]) -> torch.Tensor:
            of_one_size = groupby(map(fit, images), lambda each: each.shape)
            return joined(backbone.features(part) for _, run in of_one_size for part in in_parts(run, AT_ONCE))

        yield features
