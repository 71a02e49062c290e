"""What a scene is and how it is drawn: flat coloured shapes on a pale background, 32 x 32 RGB."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SIZE = 32
OVERSAMPLING = 4
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 45),
    "green": (40, 160, 70),
    "blue": (45, 85, 215),
    "yellow": (240, 205, 45),
    "purple": (160, 55, 190),
}
RADIUS = (4.0, 5.6)
GAP = 1.0
CROSS_ARM = 0.36
"""Half the width of the cross's arms, as a share of its radius."""
VARIATION = 10.0
"""By how much the paint of a thing may differ from the palette's, in levels of each channel."""


@dataclass(frozen=True)
class Thing:
    """One shape: its class, its colour name, its centre (x right, y down) and its radius, in pixels."""

    shape: str
    colour: str
    x: float = 0.0
    y: float = 0.0
    radius: float = 5.0


Scene = tuple[Thing, ...]


def inside(shape: str, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether points lie inside the unit shape centred on the origin.

    Args:
        shape: One of `SHAPES`.
        x, y: Coordinates in units of the radius, of any one shape.

    Raises:
        ValueError: The shape is unknown.
    """
    if shape == "circle":
        return x**2 + y**2 <= 1
    if shape == "square":
        return (abs(x) <= 0.86) & (abs(y) <= 0.86)
    if shape == "triangle":
        return (y <= 0.8) & (y >= 2 * abs(x) * 0.9 - 1)
    if shape == "cross":
        arms = (abs(x) <= CROSS_ARM) | (abs(y) <= CROSS_ARM)
        return arms & (abs(x) <= 1) & (abs(y) <= 1)
    raise ValueError(f"unknown shape {shape!r}: one of {', '.join(SHAPES)}")


WHOLE = (slice(0, SIZE), slice(0, SIZE))
"""Rows and columns of all pixels."""


def coverage(shape: str, x: float, y: float, radius: float, window: tuple[slice, slice] = WHOLE) -> Array:
    """Share of each pixel that a shape covers, in 0..1 (a box filter over 4 x 4 points a pixel).

    Args:
        shape: One of `SHAPES`.
        x: Of its centre, to the right, in pixels.
        y: Of its centre, down.
        radius: In pixels.
        window: Rows and columns of the pixels that are wanted; all [SIZE, SIZE] if not said.
    """
    down, right = (
        (np.arange(each.start * OVERSAMPLING, each.stop * OVERSAMPLING, dtype=np.float32) + 0.5) / OVERSAMPLING
        for each in window
    )
    mask = inside(shape, (right[None, :] - x) / radius, (down[:, None] - y) / radius)
    cells = mask.reshape(len(down) // OVERSAMPLING, OVERSAMPLING, len(right) // OVERSAMPLING, OVERSAMPLING)
    return cells.mean(axis=(1, 3), dtype=np.float32)


def render(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a scene on a pale background with a random grey level and slope, [SIZE, SIZE, 3] uint8.

    Colours vary by up to `VARIATION` from the palette's.
    """
    axis = np.linspace(-1, 1, SIZE, dtype=np.float32)
    slope = rng.uniform(-12, 12, 2)
    grey = rng.uniform(195, 240) + slope[0] * axis[None, :] + slope[1] * axis[:, None]
    image = np.repeat(grey[..., None], 3, axis=-1)
    for thing in scene:
        paint = np.array(COLOURS[thing.colour]) + rng.uniform(-VARIATION, VARIATION, 3)
        alpha = coverage(thing.shape, thing.x, thing.y, thing.radius)[..., None]
        image = image * (1 - alpha) + paint * alpha
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def place(things: Sequence[Thing], rng: np.random.Generator) -> Scene:
    """Give things random radii and places where none touches another or the border.

    Raises:
        RuntimeError: No free places were found in a thousand tries (more than about five things).
    """
    for _ in range(1000):
        scene = _scatter(things, rng)
        if scene is not None:
            return scene
    raise RuntimeError(f"no room for {len(things)} things in {SIZE} x {SIZE} pixels")


def _scatter(things: Sequence[Thing], rng: np.random.Generator) -> Scene | None:
    """Put one thing after the other where there is room, or give up."""
    placed: Scene = ()
    for thing in things:
        radius = float(rng.uniform(*RADIUS))
        centres = rng.uniform(radius + 0.5, SIZE - radius - 0.5, (12, 2))
        free = (replace(thing, x=float(x), y=float(y), radius=radius) for x, y in centres)
        found = next((one for one in free if all(_apart(one, other) for other in placed)), None)
        if found is None:
            return None
        placed += (found,)
    return placed


def _apart(one: Thing, other: Thing) -> bool:
    return max(abs(one.x - other.x), abs(one.y - other.y)) > one.radius + other.radius + GAP
