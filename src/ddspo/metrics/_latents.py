"""Features of images by a pipeline's own autoencoder: a small code, averaged over 4 x 4 cells."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch

from ddspo.backbones._lone_autoencoder import lone_autoencoder
from ddspo.backbones.base import Backbone
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
def opened(weights: Hub, device: torch.device) -> Iterator[Backbone]:
    """A pipeline with its autoencoder alone, in single precision."""
    yield lone_autoencoder(weights.path(), torch.float32, device)


def features(backbone: Backbone, images: Iterable[np.ndarray]) -> torch.Tensor:
    """[N, F] of any number of images of any sizes, made to fit the pipeline, of which a few are in memory."""
    every = map(backbone.fit, images)
    found = [backbone.features(part) for part in iter(lambda: list(islice(every, AT_ONCE)), [])]
    return torch.cat(found) if found else torch.empty(0, 0)
