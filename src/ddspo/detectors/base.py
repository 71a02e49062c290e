"""What a detector is."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

Box = tuple[float, ...]
"""Left, top, right, bottom in pixels."""


class Detection(NamedTuple):
    """One object that a detector found."""

    name: str
    confidence: float
    box: Box
    colour: str | None = None


class Detector(ABC):
    """Reads one [H, W, 3] uint8 image into detections, most confident first."""

    @property
    def classes(self) -> Collection[str] | None:
        """All that it can name; None: whatever it is asked for."""
        return None

    @property
    def colours(self) -> Collection[str] | None:
        """All colours that it can name; None: any."""
        return None

    @property
    def side(self) -> int | None:
        """Height and width in pixels of the images that it reads; None: any."""
        return None

    @abstractmethod
    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Find the objects of one image."""
