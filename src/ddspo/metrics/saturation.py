"""How colourful images are: rises where training has burnt colours in."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ddspo.metrics.base import Judge, Metric, Score


@dataclass(frozen=True)
class Saturation(Metric):
    """Mean over pixels of the largest minus the smallest colour channel, 0 to 1; what it gains is taken for a cost."""

    title = "saturation"
    higher_is_better = False
    reads_prompt = False

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Judge]:
        """There is nothing to load."""
        yield _judge


def _judge(images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
    return [Score(_saturation(image)) for image in images]


def _saturation(image: np.ndarray) -> float:
    pixels = image.astype(np.float32) / 255
    return round(float((pixels.max(-1) - pixels.min(-1)).mean()), 5)
