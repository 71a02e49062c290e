"""Reads anyone's image files into pixels, refusing what is broken or unreasonably large, and writes our own."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ddspo.files import replace_atomically

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What an image may be. Others of PIL's readers start programs or are seldom tested."""
MOST = 89_478_485
"""Pixels that an image may have: at most 256 MiB as RGB. Pillow's own limit, which only warns."""
BROKEN, LARGE = "broken", "too many pixels"


class Unreadable(Exception):
    """An image cannot be read; `reason` is one of few, `detail` says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def read_image(source: Path | bytes) -> np.ndarray:
    """An image as [H, W, 3] uint8: the first frame, upright, on white where it is transparent.

    Args:
        source: A file, or what one holds.

    Raises:
        Unreadable: It is missing, broken, none of `FORMATS`, or has too many pixels.
    """
    with _opened(source) as image:
        return _pixels(ImageOps.exif_transpose(image))


def write_image(path: Path, image: np.ndarray) -> None:
    """Write [H, W, 3] uint8 as a whole PNG file or nothing."""
    replace_atomically(path, partial(Image.fromarray(image).save, format="PNG"))


def image_size(source: Path | bytes) -> tuple[int, int]:
    """Height and width as an image's head has them; nothing is decoded.

    Raises:
        Unreadable: As `read_image` does, as far as the head shows.
    """
    with _opened(source) as image:
        return image.height, image.width


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    """An image of which only the head was read, and one kind of error for all that goes wrong inside."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            _refuse_bomb(image.width, image.height)
            yield image
    except (Unreadable, MemoryError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise Unreadable(LARGE, f"more than {MOST}") from None
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise Unreadable(BROKEN, _words(error)) from None


def _refuse_bomb(width: int, height: int) -> None:
    """Pillow refuses at twice its limit and only warns before; nothing is decoded yet."""
    if width * height > MOST:
        raise Unreadable(LARGE, f"{width} x {height}")


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        return _of_16_bits(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _of_16_bits(image: Image.Image) -> np.ndarray:
    """Grey of 16 bits, which Pillow would cut off at 255: 65535 is white, and so is what is transparent."""
    grey = np.asarray(image).astype(np.uint32)
    shades = ((grey + 128) // 257).astype(np.uint8)
    shades[grey == image.info.get("transparency", -1)] = 255
    return np.repeat(shades[..., None], 3, axis=-1)


def _words(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"none of {', '.join(FORMATS)}"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
