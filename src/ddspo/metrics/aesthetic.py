"""The LAION aesthetic score, version 2: how much people would like an image, 1 to 10, whatever its prompt."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from typing_extensions import Doc

from ddspo.metrics._clip import OPENAI, clip_weights, load_clip, scores
from ddspo.metrics._head import head
from ddspo.metrics._tensors import tensors
from ddspo.metrics.base import Judge, Metric, Score
from ddspo.pixels import clip_pixels
from ddspo.weights import Hub

FILE = "model.safetensors"


@dataclass(frozen=True)
class Aesthetic(Metric):
    """Five linear layers on the unit vector of an image in CLIP ViT-L/14's space.

    The weights are `sac+logos+ava1-l14-linearMSE` of github.com/christophschuhmann/improved-aesthetic-predictor.
    """

    title = "aesthetic"
    reads_prompt = False

    place: Annotated[str, Doc("folder or hub id of the layers, as safetensors")] = "ttj/sac-logos-ava1-l14-linearMSE"
    revision: Annotated[str | None, Doc("branch, tag or commit of a hub id")] = None
    clip: Annotated[str, Doc("folder or hub id of the CLIP that they were trained on")] = OPENAI

    @property
    def weights(self) -> tuple[Hub, ...]:
        """The layers, and the CLIP below them."""
        layers = Hub.of_file(FILE, 3.71e6, "Apache-2.0", self.place, self.revision)
        return layers, clip_weights(self.clip, None)

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Judge]:
        """Load both."""
        layers, folder = (each.path() for each in self.weights)
        clip = load_clip(self.clip, folder, device, self.dtype(device))
        judged = head(self.place, tensors(self.place, layers / FILE), clip.network.config.projection_dim)

        def judge(images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
            return scores(judged(clip.images(clip_pixels(images, clip.side)))[:, 0])

        yield judge
