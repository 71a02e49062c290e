"""Images as networks of the CLIP family want them: short side resized, centre cut out, normalised."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
LONGEST = 16
"""Times its short side that an image may be long: the ends of longer ones, which would be cut off, are cut first."""


def clip_pixels(images: Sequence[np.ndarray], side: int = 224, start: Callable[[float], int] = round) -> torch.Tensor:
    """What CLIP reads: [N, 3, side, side] float32 of images [H, W, 3] uint8 of any sizes.

    As OpenAI's and open_clip's validation transform: bicubic with antialias, then the centre; the rest is lost.

    Args:
        images: The images.
        side: Pixels of a side.
        start: Where the centre begins if half a pixel is left over: `round` to even in torchvision, hence in OpenAI's
            and BLIP's code, `math.floor` in transformers.
    """
    strips = (strip(Image.fromarray(image)) for image in images)
    return normalised([centre(short_side(each, side), side, start) for each in strips])


def strip(image: Image.Image) -> Image.Image:
    """The middle of an image that is very long: a row of pixels would fill the memory once it is enlarged."""
    (width, height), most = image.size, LONGEST * min(image.size)
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return image.crop((left, top, min(width, left + most), min(height, top + most)))


def short_side(image: Image.Image, side: int) -> Image.Image:
    """Resized by PIL's bicubic filter so that the short side has `side` pixels; the long side is rounded down."""
    width, height = image.size
    short = min(width, height)
    size = (side * width // short, side * height // short)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def centre(image: Image.Image, side: int, start: Callable[[float], int] = round) -> Image.Image:
    """The square in the middle; where half a pixel is left over, its place is rounded to even, or by `start`."""
    left, top = (start((length - side) / 2) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def normalised(
    images: Sequence[Image.Image], mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
) -> torch.Tensor:
    """(pixel / 255 - mean) / std of each channel: [N, 3, H, W] float32 of RGB images of one size."""
    pixels = np.stack([np.asarray(image, dtype=np.float32) for image in images]) / np.float32(255)
    scaled = (pixels - np.array(mean, dtype=np.float32)) / np.array(std, dtype=np.float32)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2).contiguous()
