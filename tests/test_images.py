"""Anyone's image becomes [H, W, 3] uint8 as a viewer shows it, whatever its mode."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from preference_files import picture

from ddspo.images import MOST, Unreadable, image_size, read_image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey_16(*values: int, transparent: int | None = None) -> bytes:
    """A PNG of one row of 16-bit greys."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(f">{len(values)}H", *values)
    key = b"" if transparent is None else chunk(b"tRNS", struct.pack(">H", transparent))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", len(values), 1, 16, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + key + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")


def one(content: bytes) -> list[int]:
    """The first pixel."""
    return [int(value) for value in read_image(content)[0, 0]]


def test_grey_of_16_bits_keeps_its_shades() -> None:
    """65535 = 255 x 257, so a shade s of 8 bits is 257 s; 128 and less more are rounded away."""
    found = read_image(grey_16(128, 129, 257, 257 * 127 + 128, 257 * 127 + 129, 65535))
    assert found.tolist() == [[[0] * 3, [1] * 3, [1] * 3, [127] * 3, [128] * 3, [255] * 3]]
    assert read_image(grey_16(257, 514, transparent=257)).tolist() == [[[255] * 3, [2] * 3]]


def test_what_is_transparent_is_white() -> None:
    """Half of red on white is (255, 127, 127); a palette's or a grey's own transparent entry is white."""
    assert one(encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 128)))) == [255, 127, 127]
    assert one(encoded(Image.new("LA", (1, 1), (0, 0)))) == [255] * 3
    assert one(encoded(Image.new("L", (1, 1), 7), transparency=7)) == [255] * 3
    assert one(encoded(Image.new("1", (1, 1), 0), transparency=0)) == [255] * 3
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 8, 7, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert read_image(encoded(palette, transparency=1)).tolist() == [[[9, 8, 7], [255] * 3]]
    assert read_image(encoded(palette, "GIF", transparency=0)).tolist() == [[[255] * 3, [200, 100, 50]]]
    assert one(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), "WEBP", lossless=True, exact=True)) == [255] * 3


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("1", 1, "PNG", [255] * 3),
        ("L", 7, "PNG", [7] * 3),
        ("L", 7, "BMP", [7] * 3),
        ("RGB", (1, 2, 3), "BMP", [1, 2, 3]),
        ("CMYK", (255, 0, 0, 0), "JPEG", [0, 255, 255]),
        ("YCbCr", (255, 128, 128), "JPEG", [255] * 3),
    ],
)
def test_every_mode(mode: str, colour: object, kind: str, expected: list[int]) -> None:
    found = np.array(one(encoded(Image.new(mode, (8, 8), colour), kind)))  # type: ignore[arg-type]
    assert np.abs(found - expected).max() <= 1


def test_of_an_animation_the_first_frame() -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert one(content) == [255, 0, 0], kind


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_a_camera_that_was_turned(orientation: int, deep: bool) -> None:
    """Turned by a quarter (5 to 8) width and height change places; what EXIF calls the first corner is put there."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.array([[0, 0, 0], [0, 0, 65535]], np.uint16)) if deep else Image.new("RGB", (3, 2))
    if not deep:
        image.putpixel((2, 1), (255, 255, 255))
    found = read_image(encoded(image, exif=exif))[..., 0]
    corner = {1: (1, 2), 2: (1, 0), 3: (0, 0), 4: (0, 2), 5: (2, 1), 6: (2, 0), 7: (0, 0), 8: (0, 1)}
    assert found.shape == ((3, 2) if orientation > 4 else (2, 3))
    assert np.argwhere(found == 255).tolist() == [list(corner[orientation])]


def test_other_formats_and_damage_are_broken(tmp_path: Path) -> None:
    tiff, png = encoded(picture(0), "TIFF"), encoded(picture(0))
    for content, words in ((tiff, "none of JPEG"), (b"", "none of JPEG"), (png[:-300], "")):
        with pytest.raises(Unreadable, match=rf"broken: {words}") as caught:
            read_image(content)
        assert caught.value.reason == "broken"
    for path, words in ((tmp_path / "no.png", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(Unreadable, match=words):
            read_image(path)
    (tmp_path / "x.png").write_bytes(png)
    assert read_image(tmp_path / "x.png").shape == (40, 40, 3)


def test_the_size_is_read_without_the_pixels() -> None:
    half = encoded(picture(0, width=30, height=20))[:1000]
    assert image_size(half) == (20, 30)
    with pytest.raises(Unreadable, match="broken"):
        read_image(half)


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_not_decoded() -> None:
    side = int(MOST**0.5) + 1
    huge = encoded(Image.new("1", (side, side)))
    for read in (read_image, image_size):
        with pytest.raises(Unreadable, match=f"too many pixels: {side} x {side}"):
            read(huge)
