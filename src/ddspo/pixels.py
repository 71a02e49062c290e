"""Images as networks of the CLIP family want them: short side resized, centre cut out, normalised."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(images: Sequence[np.ndarray], side: int = 224) -> torch.Tensor:
    """What CLIP reads: [N, 3, side, side] float32 of images [H, W, 3] uint8 of any sizes.

    As OpenAI's and open_clip's validation transform: bicubic with antialias, then the centre; the rest is lost.
    """
    return normalised([centre(short_side(Image.fromarray(image), side), side) for image in images])


def short_side(image: Image.Image, side: int) -> Image.Image:
    """Resized by PIL's bicubic filter so that the short side has `side` pixels; the long side is rounded down."""
    width, height = image.size
    short = min(width, height)
    size = (side * width // short, side * height // short)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def centre(image: Image.Image, side: int) -> Image.Image:
    """The square in the middle; where half a pixel is left over, its place is rounded to even."""
    left, top = (round((length - side) / 2) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def normalised(
    images: Sequence[Image.Image], mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
) -> torch.Tensor:
    """(pixel / 255 - mean) / std of each channel: [N, 3, H, W] float32 of RGB images of one size."""
    pixels = np.stack([np.asarray(image, dtype=np.float32) for image in images]) / np.float32(255)
    scaled = (pixels - np.array(mean, dtype=np.float32)) / np.array(std, dtype=np.float32)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2).contiguous()
