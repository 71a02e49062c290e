"""What CLIP reads of an image, against hand-worked pixels and against the processor of transformers."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from ddspo.pixels import CLIP_MEAN, CLIP_STD, centre, clip_pixels, normalised, short_side, strip


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(224, 224), (512, 512), (64, 64), (100, 150), (333, 90), (31, 400)])
def test_it_is_what_the_processor_of_transformers_gives(size: tuple[int, int]) -> None:
    """Where an odd number of pixels is cut off, the two round differently: these sizes leave an even number."""
    image = noise(*size)
    short = min(size)
    assert (224 * max(size) // short) % 2 == 0
    expected = CLIPImageProcessorPil()(images=[image], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(clip_pixels([image]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(100, 150), (101, 150), (333, 91)])
def test_where_half_a_pixel_is_left_over_transformers_begins_before_it(size: tuple[int, int]) -> None:
    image = noise(*size)
    expected = CLIPImageProcessorPil()(images=[image], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(clip_pixels([image], start=math.floor), expected, rtol=0, atol=1e-5)


def test_sizes_may_differ() -> None:
    images = [noise(40, 60), noise(224, 224), noise(500, 30)]
    together = clip_pixels(images)
    assert together.shape == (3, 3, 224, 224)
    for image, pixels in zip(images, together, strict=True):
        assert torch.equal(clip_pixels([image])[0], pixels)


def test_white_and_black() -> None:
    """(1 - mean) / std and (0 - mean) / std."""
    for value in (0, 1):
        pixels = normalised([Image.new("RGB", (2, 3), (value * 255,) * 3)])
        assert pixels.shape == (1, 3, 3, 2)
        expected = [(value - mean) / std for mean, std in zip(CLIP_MEAN, CLIP_STD, strict=True)]
        assert pixels[0, :, 1, 1].tolist() == pytest.approx(expected)


def test_the_long_side_is_rounded_down_and_cut_on_both_ends() -> None:
    """150 x 100 at short side 7: 7 * 150 / 100 = 10.5 becomes 10; of 10 columns 1.5 each are cut, rounded to 2."""
    assert short_side(Image.new("RGB", (150, 100)), 7).size == (10, 7)
    row = Image.fromarray(np.arange(10, dtype=np.uint8)[None].repeat(7, 0))
    assert np.asarray(centre(row, 7))[0].tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert np.asarray(centre(row, 7, math.floor))[0].tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_of_a_very_long_image_the_ends_are_cut_before_it_is_enlarged() -> None:
    """A row of 5 million pixels would be 224 x 1.1 billion: of it 16 pixels are left, of an ordinary image all."""
    row = Image.new("RGB", (5_000_000, 1))
    assert strip(row).size == (16, 1)
    assert strip(Image.new("RGB", (2, 100))).size == (2, 32)
    assert strip(Image.new("RGB", (30, 400))).size == (30, 400)
    assert clip_pixels([np.asarray(row)]).shape == (1, 3, 224, 224)
