"""What a detector is."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from ddspo.weights import Weights

Box = tuple[float, ...]
"""Left, top, right, bottom in pixels."""


class Detection(NamedTuple):
    """One object that a detector found: with its mask [H, W] bool and its colour, where these are found along."""

    name: str
    confidence: float
    box: Box
    mask: np.ndarray | None = None
    colour: str | None = None


class Reader(ABC):
    """A detector whose weights are loaded."""

    @abstractmethod
    def __call__(self, images: Sequence[np.ndarray], names: Sequence[Collection[str]]) -> list[list[Detection]]:
        """Find the objects in images [H, W, 3] uint8, most confident first.

        Args:
            images: Of any sizes.
            names: For each image the classes that are asked for; others may be found as well.
        """

    def colours(self, image: np.ndarray, found: Sequence[Detection]) -> list[str | None]:
        """The colour of each of some objects of an image; asked only where a row names one."""
        return [each.colour for each in found]


class Detector(ABC):
    """Finds objects in images."""

    half: ClassVar[bool] = False
    """Whether bfloat16 will do on CUDA."""

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

    @property
    def weights(self) -> tuple[Weights, ...]:
        """What it loads."""
        return ()

    def dtype(self, device: torch.device) -> torch.dtype:
        """Of its networks on a device."""
        return torch.bfloat16 if self.half and device.type == "cuda" else torch.float32

    @abstractmethod
    def open(self, device: torch.device) -> AbstractContextManager[Reader]:
        """Load what it needs; it is freed when the block ends."""
