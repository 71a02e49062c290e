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
from ddspo.scenes.drawing import flaw, ground
from ddspo.scenes.world import COLOURS, SHAPES, SIZE, Array, Thing, coverage

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

_AROUND = np.ones((3, 3), bool)


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
        pixels = _pixels(image)
        found = [self._judge(pixels, alpha, index) for index, alpha in self._parts(pixels)]
        return sorted(found, key=lambda d: -d.confidence)

    def flaws(self, image: np.ndarray) -> list[tuple[str, float]]:
        """What is drawn in one [32, 32, 3] uint8 image, and how far from clean each is, in levels of 255.

        Doubtful things count as well, each as the shape that it is most like (`ddspo.scenes.drawing.flaw`).
        """
        pixels = _pixels(image)
        parts = [*self._parts(pixels)]
        drawn = [ndimage.binary_dilation(alpha > 0.5, _AROUND) for _, alpha in parts]
        behind = ground(pixels * 255, ~np.any([alpha > 0 for _, alpha in parts], axis=0)) if parts else pixels
        found = []
        for place, (colour, alpha) in enumerate(parts):
            thing, _ = _nearest(alpha, _NAMES[colour])
            others = np.any([*drawn[:place], *drawn[place + 1 :], np.zeros_like(drawn[place])], axis=0)
            found.append((f"{thing.colour} {thing.shape}", flaw(pixels * 255, behind, ~others, thing)))
        return found

    def _parts(self, pixels: Array) -> Iterator[tuple[int, Array]]:
        """The colour and the coverage of each thing."""
        colour, strength = _paint(pixels)
        for index in range(len(_NAMES)):
            for alpha in _parts(strength * (colour == index)):
                if alpha.sum() >= self.smallest:
                    yield index, alpha

    def _judge(self, pixels: Array, alpha: Array, colour: int) -> Detection:
        thing, overlap = _nearest(alpha, _NAMES[colour])
        spread = float(np.linalg.norm(pixels[alpha > 0.85].mean(axis=0) - _PALETTE[colour]))
        confidence = _ramp(overlap, *self.overlap) * _ramp(spread, *self.distance)
        rows, columns = np.where(alpha > 0.5)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        return Detection(thing.shape, confidence, tuple(float(side) for side in box), colour=thing.colour)


@dataclass(frozen=True)
class SceneReader(Reader):
    """Reads with the options of a detector; each thing comes with its colour."""

    detector: SceneDetector

    def __call__(self, images: Sequence[np.ndarray], names: Sequence[Collection[str]]) -> list[list[Detection]]:
        """All that there is in [32, 32, 3] uint8 images, whatever is asked for."""
        return [self.detector.read(image) for image in images]


def _pixels(image: np.ndarray) -> Array:
    """In 0 ... 1."""
    if image.shape != (SIZE, SIZE, 3):
        raise ValueError(f"the scenes detector reads {SIZE} x {SIZE} x 3 images, not {image.shape}")
    return image.astype(np.float32) / 255


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


def _nearest(alpha: Array, colour: str) -> tuple[Thing, float]:
    """The thing of equal area and centre whose coverage is most like that of a part, and how much so."""
    area = float(alpha.sum())
    y, x = (c + 0.5 for c in ndimage.center_of_mass(alpha))
    scored = []
    for shape in SHAPES:
        radius = (area / _AREA[shape]) ** 0.5
        down, right = _SHIFT[shape]
        thing = Thing(shape, colour, x - right * radius, y - down * radius, radius)
        scored.append((thing, _overlap(alpha, thing)))
    return max(scored, key=lambda each: each[1])


def _overlap(alpha: Array, thing: Thing) -> float:
    """Soft intersection over union with the coverage of a thing."""
    template = coverage(thing.shape, thing.x, thing.y, thing.radius)
    return float(np.minimum(alpha, template).sum() / np.maximum(alpha, template).sum())


def _ramp(value: float, low: float, high: float) -> float:
    return float(np.clip((value - low) / (high - low), 0, 1))
