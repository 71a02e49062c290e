"""CLIPScore: 100 times the cosine of image and prompt in CLIP's space, or 0 (Hessel et al. 2021, arXiv 2104.08718)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from typing_extensions import Doc

from ddspo.metrics._clip import OPENAI, clip_weights, load_clip, scores
from ddspo.metrics.base import Judge, Metric, Score
from ddspo.pixels import clip_pixels
from ddspo.weights import Hub


@dataclass(frozen=True)
class ClipScore(Metric):
    """max(100 cos(image, prompt), 0), with the weights and the preparation of torchmetrics' default.

    Of a long prompt the first 77 tokens count, the end token among them; the rest is cut off silently. torchmetrics
    cuts the end token off as well, so that its scores of such prompts are of another token, and differ.
    """

    title = "CLIPScore"

    place: Annotated[str, Doc("folder or hub id of a CLIP")] = OPENAI
    revision: Annotated[str | None, Doc("branch, tag or commit of a hub id")] = None

    @property
    def weights(self) -> tuple[Hub, ...]:
        """One CLIP."""
        return (clip_weights(self.place, self.revision),)

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Judge]:
        """Load the CLIP."""
        clip = load_clip(self.place, self.weights[0].path(), device, self.dtype(device))

        def judge(images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
            pixels = clip_pixels(images, clip.side, math.floor)
            return scores((100 * clip.cosines(pixels, rows)).clamp(min=0))

        yield judge
