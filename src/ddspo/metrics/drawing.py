"""How far the things in an embedded world's images are from clean renderings, in levels of 255, whatever they are."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Gt
from typing_extensions import Doc

from ddspo.detectors.scenes import SceneDetector
from ddspo.metrics.base import Judge, Metric, Score


@dataclass(frozen=True)
class Drawing(Metric):
    """The mean over what is drawn of sqrt(mean over its box |image - nearest clean rendering|^2), in levels of 255.

    Every thing counts, also what is too garbled to be read; an image without anything is as bad as `nothing`.
    """

    title = "drawing error"
    higher_is_better = False
    reads_prompt = False

    nothing: Annotated[float, Gt(0), Doc("of an image in which nothing is drawn; missing things cost that")] = 80.0

    @property
    def side(self) -> int | None:
        """That of the world."""
        return SceneDetector().side

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Judge]:
        """There is nothing to load."""
        detector = SceneDetector()

        def judge(images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
            return [self._score(detector.flaws(image)) for image in images]

        yield judge

    def _score(self, flaws: Sequence[tuple[str, float]]) -> Score:
        if not flaws:
            return Score(self.nothing, "nothing is drawn")
        worst, most = max(flaws, key=lambda each: each[1])
        return Score(round(float(np.mean([value for _, value in flaws])), 3), f"{worst} {most:.1f}")
