"""How much the images of one prompt differ, by LPIPS (Zhang et al. 2018, arXiv 1801.03924) over AlexNet.

The numbers are those of the package lpips 0.1.4 (`LPIPS(net="alex")`), whose weights it reads, and which like that of
torchmetrics cannot be used without torchvision.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from PIL import Image
from typing_extensions import Doc

from ddspo.metrics._lpips import HEADS, TRUNK, opened
from ddspo.metrics._sets import groups_of, noted
from ddspo.metrics.base import SetJudge, SetMetric, Shown
from ddspo.weights import Weights


@dataclass(frozen=True)
class LPIPSDiversity(SetMetric):
    """mean LPIPS(x, x') over all pairs of images of one prompt."""

    title = "LPIPS diversity"

    pixels: Annotated[
        int, Ge(64), Le(2048), Doc("side of the squares that images are resized to; other sides give other numbers")
    ] = 256

    @property
    def weights(self) -> tuple[Weights, ...]:
        """AlexNet, and what LPIPS makes of its layers."""
        return TRUNK, HEADS

    @contextmanager
    def open(self, device: torch.device, references: Callable[[], Iterable[np.ndarray]] | None) -> Iterator[SetJudge]:
        """Load both networks."""
        with opened(device) as distances:

            def judge(images: Iterable[Shown]) -> dict[str, float]:
                items: list[str] = []
                small = [self._resized(image) for image in noted(images, items)]
                groups = groups_of(items, small, "lpips_diversity")
                return {"lpips_diversity": float(np.mean([each for group in groups for each in distances(group)]))}

            yield judge

    def _resized(self, image: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(image).resize((self.pixels, self.pixels), Image.Resampling.BICUBIC))
