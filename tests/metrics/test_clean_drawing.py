"""How cleanly the things of an embedded world are drawn: numbers by hand, and that only the drawing counts."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from ddspo.metrics.drawing import Drawing
from ddspo.scenes.prompts import scene_for, split_items
from ddspo.scenes.world import COLOURS, SHAPES, SIZE, Thing, coverage, place, render

GREY = 217.0
SIDE = 4 / 0.86
"""Radius of a square that covers 8 x 8 pixels and no part of others, where its centre lies between pixels."""


def values(images: list[np.ndarray], metric: Drawing | None = None) -> list[float]:
    with (metric or Drawing()).open(torch.device("cpu")) as judge:
        return [score.value for score in judge(images, [{}] * len(images))]


def painted(*things: tuple[Thing, tuple[float, float, float]]) -> np.ndarray:
    """Things in any paint on plain grey."""
    image = np.full((SIZE, SIZE, 3), GREY)
    for thing, paint in things:
        alpha = coverage(thing.shape, thing.x, thing.y, thing.radius)[..., None]
        image = image * (1 - alpha) + np.array(paint) * alpha
    return (image + 0.5).astype(np.uint8)


def scenes(count: int = 10) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    rows = split_items("evaluation")
    return [render(scene_for(rows[rng.integers(len(rows))], rng), rng) for _ in range(count)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_clean_drawing_costs_next_to_nothing(shape: str) -> None:
    """Rounding costs up to .5 levels; an outline that is found a quarter of a pixel off costs a few, now and then."""
    rng = np.random.default_rng(1)
    found = values([render(place([Thing(shape, colour)], rng), rng) for colour in [*COLOURS] * 5])
    assert np.median(found) < 2
    assert np.mean(found) < 2.5


def test_the_wrong_paint_by_hand() -> None:
    """Paint may differ by 10 levels. Of 40 in green 30 are left, in 1 channel of 3 and 64 pixels of a box of 12 x 12:

    the side of the box is 2 (4.65 + 1) = 11.3, in which the middles of 12 pixels lie; 30 sqrt(64 / (3 * 144)) = 11.55.
    """
    red, green, blue = COLOURS["red"]
    square = Thing("square", "red", 16, 16, SIDE)
    right, within, wrong = (painted((square, (red, green + more, blue))) for more in (0, 10, 40))
    found = values([right, within, wrong])
    assert found == pytest.approx([0, 0, 30 * (64 / 432) ** 0.5], abs=0.01)


def test_haze_beside_a_thing_by_hand() -> None:
    """A pale blot of 2 x 2 pixels at the corner of the box of 12 x 12, 24 levels in one channel.

    sqrt(4 * 24^2 / (3 * 144)) = 2.31, and the background's plane is moved by next to nothing.
    """
    image = painted((Thing("square", "red", 16, 16, SIDE), COLOURS["red"]))
    image[10:12, 10:12, 2] += 24
    assert values([image]) == pytest.approx([(4 * 24**2 / 432) ** 0.5], abs=0.05)


def test_the_mean_is_over_things_and_a_neighbour_is_nobodys_flaw() -> None:
    """One square as in `test_the_wrong_paint_by_hand`, and a right one whose box it reaches into: 11.55 / 2.

    Two columns of the box of either, and of its pixels the 8 + 2 rows around the other, are not looked at:
    30 sqrt(64 / (3 (144 - 20))) = 12.44.
    """
    red, green, blue = COLOURS["red"]
    wrong = Thing("square", "red", 10, 16, SIDE), (red, green + 40, blue)
    image = painted(wrong, (Thing("square", "blue", 19, 16, SIDE), COLOURS["blue"]))
    assert values([image]) == pytest.approx([30 * (64 / (3 * 124)) ** 0.5 / 2], abs=0.05)


def test_noise_costs_what_it_is() -> None:
    """White noise of s levels and a clean drawing's own d are at least max(s, d), and about sqrt(s^2 + d^2)."""
    clean, rng = scenes(), np.random.default_rng(2)
    none = np.mean(values(clean))
    for level in (5.0, 10.0, 20.0):
        noisy = [np.clip(image + rng.normal(0, level, image.shape), 0, 255).astype(np.uint8) for image in clean]
        assert level * 0.9 < np.mean(values(noisy)) < (level**2 + none**2) ** 0.5 * 1.2


def test_blur_costs_more_the_wider_it_is() -> None:
    """And the widest, in which a thing of radius 5 is a blot, costs more than a strong noise."""
    blurred = [
        [ndimage.gaussian_filter(image.astype(float), (width, width, 0)).astype(np.uint8) for image in scenes()]
        for width in (0.01, 0.5, 1.0, 1.5)
    ]
    found = [np.mean(values(images)) for images in blurred]
    assert found == sorted(found)
    assert found[0] < 2 < 10 < found[-1]


def test_an_empty_image_is_as_bad_as_said() -> None:
    """What a thing costs that is not there at all: its whole contrast to the background, over its box."""
    empty = render((), np.random.default_rng(3))
    assert values([empty]) == [Drawing.nothing]
    assert values([empty], Drawing(nothing=50.0)) == [50.0]
    lacking = []
    for shape, colour in ((shape, colour) for shape in SHAPES for colour in COLOURS):
        alpha = coverage(shape, 16, 16, 5)[10:22, 10:22, None]
        lacking.append(float(np.sqrt(np.square(alpha * (GREY - np.array(COLOURS[colour]))).mean())))
    assert np.mean(lacking) == pytest.approx(Drawing.nothing, abs=5)
