"""Reads an image of the world back into things: exact on renders, unsure on anything else."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt, Le
from scipy import ndimage
from typing_extensions import Doc

from ddspo.detectors.base import Detection, Detector, Reader
from ddspo.errors import InputError
from ddspo.scenes.world import COLOURS, SHAPES, SIZE, Array, coverage

_PALETTE = np.array(list(COLOURS.values()), dtype=np.float32) / 255
_NAMES = list(COLOURS)
_UNIT = 6.0
_AREA = {shape: float(coverage(shape, SIZE / 2, SIZE / 2, _UNIT).sum()) / _UNIT**2 for shape in SHAPES}
_SHIFT = {
    shape: tuple(
        (np.array(ndimage.center_of_mass(coverage(shape, SIZE / 2, SIZE / 2, _UNIT))) + 0.5 - SIZE / 2) / _UNIT
    )
    for shape in SHAPES
}


@dataclass(frozen=True)
class SceneDetector(Detector):
    """Finds shapes by colour and compares each with the four templates of its own area and centre.

    confidence = ramp(overlap of the best template) * ramp(nearness of the colour), each 0 ... 1.
    """

    smallest: Annotated[float, Gt(0), Le(SIZE**2), Doc("least area of a thing, in pixels")] = 12.0
    overlap: Annotated[tuple[float, float], Doc("overlaps with the template of confidence 0 and of 1")] = (0.60, 0.80)
    distance: Annotated[tuple[float, float], Doc("RGB distances to the colour of confidence 0 and of 1")] = (
        0.32,
        0.16,
    )

    @property
    def side(self) -> int:
        """Of the world's own images."""
        return SIZE

    @property
    def classes(self) -> tuple[str, ...]:
        """The world's shapes."""
        return SHAPES

    @property
    def colours(self) -> tuple[str, ...]:
        """The world's colours."""
        return tuple(COLOURS)

    def __post_init__(self) -> None:
        for name in ("overlap", "distance"):
            zero, one = vars(self)[name]
            if zero == one:
                raise InputError(f"scenes: {name}: {zero} and {one}: give two numbers that differ")

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Reader]:
        """There is nothing to load."""
        yield SceneReader(self)

    def read(self, image: np.ndarray) -> list[Detection]:
        """Things in one [32, 32, 3] uint8 image, most confident first."""
        if image.shape != (SIZE, SIZE, 3):
            raise ValueError(f"the scenes detector reads {SIZE} x {SIZE} x 3 images, not {image.shape}")
        pixels = image.astype(np.float32) / 255
        colour, strength = _paint(pixels)
        found = [
            self._judge(pixels, alpha, index)
            for index in range(len(_NAMES))
            for alpha in _parts(strength * (colour == index))
            if alpha.sum() >= self.smallest
        ]
        return sorted(found, key=lambda d: -d.confidence)

    def _judge(self, pixels: Array, alpha: Array, colour: int) -> Detection:
        area = float(alpha.sum())
        y, x = (c + 0.5 for c in ndimage.center_of_mass(alpha))
        scores = {shape: _overlap(alpha, shape, x, y, area) for shape in SHAPES}
        shape = max(scores, key=lambda name: scores[name])
        spread = float(np.linalg.norm(pixels[alpha > 0.85].mean(axis=0) - _PALETTE[colour]))
        confidence = _ramp(scores[shape], *self.overlap) * _ramp(spread, *self.distance)
        rows, columns = np.where(alpha > 0.5)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        return Detection(shape, confidence, tuple(float(side) for side in box), colour=_NAMES[colour])


@dataclass(frozen=True)
class SceneReader(Reader):
    """Reads with the options of a detector; each thing comes with its colour."""

    detector: SceneDetector

    def __call__(self, images: Sequence[np.ndarray], names: Sequence[Collection[str]]) -> list[list[Detection]]:
        """All that there is in [32, 32, 3] uint8 images, whatever is asked for."""
        return [self.detector.read(image) for image in images]


def _paint(pixels: Array) -> tuple[np.ndarray, Array]:
    """Nearest palette colour of each pixel by hue, and its strength of colour in units of that colour's own."""
    chroma = pixels - pixels.mean(axis=-1, keepdims=True)
    palette = _PALETTE - _PALETTE.mean(axis=-1, keepdims=True)
    full = np.linalg.norm(palette, axis=-1)
    colour = (chroma @ (palette / full[:, None]).T).argmax(axis=-1)
    return colour, np.linalg.norm(chroma, axis=-1) / full[colour]


def _parts(strength: Array) -> list[Array]:
    """How much of each pixel each connected part covers (0 ... 1): its strength in units of the part's own paint.

    Paint varies from thing to thing; on grey, strength grows in proportion to coverage. Two faint pixels around a part
    count with it, so that a blurred edge shows, but no pixel of another part does.
    """
    labels, count = ndimage.label(strength > 0.6)
    parts = []
    for index in range(1, count + 1):
        part = labels == index
        near = ndimage.binary_dilation(part, iterations=2) & ((labels == index) | (labels == 0))
        parts.append(np.clip(strength / np.quantile(strength[part], 0.75), 0, 1) * near)
    return parts


def _overlap(alpha: Array, shape: str, x: float, y: float, area: float) -> float:
    """Soft intersection over union with the template of equal area and centre."""
    radius = (area / _AREA[shape]) ** 0.5
    down, right = _SHIFT[shape]
    template = coverage(shape, x - right * radius, y - down * radius, radius)
    return float(np.minimum(alpha, template).sum() / np.maximum(alpha, template).sum())


def _ramp(value: float, low: float, high: float) -> float:
    return float(np.clip((value - low) / (high - low), 0, 1))
