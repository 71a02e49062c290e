"""A metric of your own, used as it is: `python examples/new_metric.py FOLDER OTHER_FOLDER`."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Interval
from typing_extensions import Doc

from ddspo.images import read_image
from ddspo.metrics.base import Judge, Metric, Score


@dataclass(frozen=True)
class Brightness(Metric):
    """Mean of the pixels, 0 to 1, less the share of pixels that are nearly black."""

    title = "brightness"
    reads_prompt = False

    dark: Annotated[int, Interval(ge=0, le=255), Doc("a pixel is nearly black whose channels are all below it")] = 16

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Judge]:
        """There is nothing to load; a network would be loaded here, and freed when the block ends."""

        def judge(images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
            return [self._score(image) for image in images]

        yield judge

    def _score(self, image: np.ndarray) -> Score:
        black = float((image < self.dark).all(-1).mean())
        return Score(float(image.mean()) / 255 - black, f"{black:.0%} nearly black")


def mean_of(folder: Path) -> float:
    """The mean score of the PNG files of a folder."""
    images = [read_image(path) for path in sorted(folder.glob("*.png"))]
    with Brightness().open(torch.device("cpu")) as judge:
        return float(np.mean([score.value for score in judge(images, [{}] * len(images))]))


if __name__ == "__main__":
    for place in sys.argv[1:]:
        print(f"{place}: {mean_of(Path(place)):.3f}")
