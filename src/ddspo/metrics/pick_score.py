"""PickScore: a CLIP-H that learned which of two images people pick (Kirstain et al. 2023, arXiv 2305.01569)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from typing_extensions import Doc

from ddspo.metrics._clip import load_clip, scores
from ddspo.metrics.base import Judge, Metric, Score
from ddspo.pixels import clip_pixels
from ddspo.weights import Hub


@dataclass(frozen=True)
class PickScore(Metric):
    """exp(logit_scale) cos(image, prompt): about 20 to 23; a softmax over images tells how often each is picked.

    The scale is the network's own, about 100. Of a long prompt the first 77 tokens count, the end token among them;
    the rest is cut off silently.
    """

    title = "PickScore"

    place: Annotated[str, Doc("folder or hub id of its CLIP")] = "yuvalkirstain/PickScore_v1"
    revision: Annotated[str | None, Doc("branch, tag or commit of a hub id")] = None

    @property
    def weights(self) -> tuple[Hub, ...]:
        """One CLIP; the licence is that of its authors' repository, as the hub states none."""
        return (Hub(size=3.94e9, licence="MIT", commercial=True, place=self.place, revision=self.revision),)

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Judge]:
        """Load the CLIP."""
        clip = load_clip(self.place, self.weights[0].path(), device, self.dtype(device))

        def judge(images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
            pixels = clip_pixels(images, clip.side, math.floor)
            return scores(clip.scale * clip.cosines(pixels, rows))

        yield judge
