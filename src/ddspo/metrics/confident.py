"""The share of images in which a detector is sure of what it sees: garbled objects make it unsure."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Interval
from typing_extensions import Doc

from ddspo.metrics._detecting import Detecting
from ddspo.metrics.base import Judge, Score


@dataclass(frozen=True)
class Confident(Detecting):
    """1 for an image with objects of which none is doubtful: each that is seen at all is seen with confidence."""

    title = "confident"
    reads_prompt = False

    seen: Annotated[float, Interval(ge=0, le=1), Doc("confidence above which there is an object")] = 0.3
    sure: Annotated[float, Interval(ge=0, le=1), Doc("confidence above which there is no doubt")] = 0.9

    def missing(self, row: Mapping[str, Any]) -> str | None:
        """Nothing where the detector names what it sees by itself; otherwise nobody says what it should look for."""
        if self.detector.classes is None:
            return "the detector has to be told what to look for: use one with classes of its own"
        return None

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Judge]:
        """Detect, and look at the confidences."""
        with self.detector.open(device) as read:

            def judge(images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
                found = read(images, [self.detector.classes or ()] * len(images))
                return [self._score([each.confidence for each in one]) for one in found]

            yield judge

    def _score(self, confidences: Sequence[float]) -> Score:
        seen = [each for each in confidences if each > self.seen]
        return Score(float(bool(seen) and min(seen) > self.sure))
