"""Features of images by a pipeline's own autoencoder: a small code, averaged over 4 x 4 cells."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ddspo.metrics._sets import Features, in_parts, joined
from ddspo.weights import Hub

AT_ONCE = 64
"""Images that are in memory at once."""


def autoencoder_of(model: str) -> Hub:
    """The autoencoder's files of a pipeline's folder or hub id, whose licence is the pipeline's."""
    return Hub(
        size=0.34e9,  # of the usual kind in single precision
        licence="the pipeline's own",
        commercial=True,
        place=model,
        files=("vae/*.safetensors",),
        index="model_index.json",
    )


@contextmanager
def opened(weights: Hub, device: torch.device) -> Iterator[Features]:
    """The features [N, F] of images made to fit the pipeline, of which a few are in memory."""
    from ddspo.backbones._lone_autoencoder import lone_autoencoder  # it imports diffusers

    backbone = lone_autoencoder(weights.path(), torch.float32, device)

    def features(images: Iterable[np.ndarray]) -> torch.Tensor:
        return joined(backbone.features(part) for part in in_parts(map(backbone.fit, images), AT_ONCE))

    yield features
