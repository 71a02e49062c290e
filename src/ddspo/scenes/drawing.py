"""How well a thing is drawn, whatever it is: its distance to the clean rendering that lies nearest."""

import itertools
import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ddspo.scenes.world import COLOURS, SIZE, VARIATION, Array, Thing, coverage

_WAYS = [way for way in itertools.product((-1, 0, 1), repeat=3) if any(way)]
_MOVES = [np.array(way) * step for step in (0.3, 0.15, 0.08) for way in _WAYS]
"""By how much place and size are moved, in pixels, one after the other, in search of the nearest rendering."""


def ground(pixels: Array, bare: NDArray[np.bool_]) -> Array:
    """The background that a scene would have: the grey plane through its bare pixels, [SIZE, SIZE] in levels.

    Args:
        pixels: [SIZE, SIZE, 3] in levels, 0 to 255.
        bare: Where no thing is, [SIZE, SIZE].
    """
    y, x = np.mgrid[:SIZE, :SIZE] / (SIZE - 1) * 2 - 1
    plane = np.stack([np.ones_like(x), x, y], axis=-1)
    fitted, *_ = np.linalg.lstsq(plane[bare], pixels.mean(axis=-1)[bare], rcond=None)
    return np.asarray(plane @ fitted)


def flaw(pixels: Array, behind: Array, own: NDArray[np.bool_], thing: Thing) -> float:
    """Root mean square over a thing's box, one pixel wider on each side, of image - clean rendering, in levels.

    The rendering is the nearest one near the found place and size, and its paint the found one, as far as the world
    paints so: what remains is no scene of this world, blur, noise, a mixed colour or a bent outline.

    Args:
        pixels: [SIZE, SIZE, 3] in levels, 0 to 255.
        behind: The background, [SIZE, SIZE] in levels.
        own: Pixels that belong to no other thing, [SIZE, SIZE].
        thing: What was found, and where about.
    """
    window = _span(thing.y, thing.radius + 1), _span(thing.x, thing.radius + 1)
    seen = pixels[window], behind[window], own[window]
    best = _distance(seen, window, thing)
    for x, y, radius in _MOVES:
        moved = replace(thing, x=thing.x + x, y=thing.y + y, radius=thing.radius + radius)
        distance = _distance(seen, window, moved)
        if distance < best:
            best, thing = distance, moved
    return best


def _span(centre: float, reach: float) -> slice:
    """The pixels whose middle is within reach."""
    return slice(max(0, math.ceil(centre - reach - 0.5)), min(SIZE, math.floor(centre + reach - 0.5) + 1))


def _distance(seen: tuple[Array, Array, NDArray[np.bool_]], window: tuple[slice, slice], thing: Thing) -> float:
    """Of the pixels, background and own pixels of a window to the rendering of a thing there."""
    pixels, behind, own = seen
    alpha = coverage(thing.shape, thing.x, thing.y, thing.radius, window)[..., None]
    usual, inside = np.array(COLOURS[thing.colour]), pixels[(alpha[..., 0] > 0.99) & own]
    found = inside.mean(axis=0) if len(inside) else usual
    paint = np.clip(found, usual - VARIATION, usual + VARIATION)
    clean = behind[..., None] * (1 - alpha) + paint * alpha
    return float(np.sqrt(np.square(pixels - clean)[own].mean()))
