"""What a dataset names or holds is never trusted: paths, image files, latents, texts."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from preference_files import encoded, picture, save
from safetensors.torch import save_file

from ddspo.preferences._sides import ImageBytes, ImageFile, LatentFile, Unusable, inside, side_of
from ddspo.preferences.base import prompt_of


def reason(read: object) -> str:
    with pytest.raises(Unusable) as caught:
        read()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset's folder with an image, beside a secret."""
    save(tmp_path / "set/images/0.png", 0)
    save(tmp_path / "secret.png", 1)
    return tmp_path / "set"


@pytest.mark.parametrize(
    "name", ["../secret.png", "images/../../secret.png", "/etc/passwd", "\0", "images/0.png\0.txt", "..", "./../x"]
)
def test_names_that_leave_the_folder(name: str, folder: Path) -> None:
    assert reason(ImageFile(folder, name).read) == "path that leaves the folder"


def test_a_whole_path_is_refused_even_where_it_leads_inside(folder: Path) -> None:
    assert reason(ImageFile(folder, str(folder / "images/0.png")).read) == "path that leaves the folder"


def test_links(folder: Path) -> None:
    """A link inside is followed; out of the folder it is refused, but for the blobs of the hub's own cache."""
    (folder / "inside.png").symlink_to("images/0.png")
    (folder / "out.png").symlink_to("../secret.png")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "up").symlink_to("..")
    assert np.array_equal(ImageFile(folder, "inside.png").read(), picture(0))
    assert reason(ImageFile(folder, "out.png").read) == "path that leaves the folder"
    assert reason(ImageFile(folder, "up/secret.png").read) == "path that leaves the folder"
    assert reason(ImageFile(folder, "circle.png").read) == "missing file"
    cache = folder.parent / "datasets--a--b"
    save(cache / "blobs/0.png", 2)
    (cache / "snapshots/abc").mkdir(parents=True)
    (cache / "snapshots/abc/0.png").symlink_to("../../blobs/0.png")
    (cache / "snapshots/abc/1.png").symlink_to("../../../secret.png")
    assert np.array_equal(ImageFile(cache / "snapshots/abc", "0.png").read(), picture(2))
    assert reason(ImageFile(cache / "snapshots/abc", "1.png").read) == "path that leaves the folder"


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from(["..", ".", "a", "/", "\\", "\0", "é", "🦊", "\u202e"])).map("/".join)
)
def test_any_name_stays_inside_or_is_refused(name: str) -> None:
    root = Path("/proc/self/fd")  # everything in it is a link out of it
    with pytest.raises(Unusable):
        inside(root, name)


@pytest.mark.parametrize("name", ["images", "images/1.png", "x" * 5000, "images/0.png/x"])
def test_what_is_no_file(name: str, folder: Path) -> None:
    assert reason(ImageFile(folder, name).read) == "missing file"


def test_a_pipe_is_no_file(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    assert reason(ImageFile(folder, "pipe.png").read) == "missing file"


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes that says it has very many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(10000, 10000), (60000, 60000), (2**31 - 1, 1)])
def test_bombs(width: int, height: int) -> None:
    """Pillow's limit is 89 478 485 pixels; it refuses at twice as many by itself."""
    assert reason(ImageBytes(bomb(width, height)).read) == "too many pixels"


@pytest.mark.parametrize("content", [b"x", b"%!PS-Adobe", encoded(0)[:-300], encoded(0, "JPEG")[:50], bomb(9, 9)])
def test_broken_images(content: bytes) -> None:
    assert reason(ImageBytes(content).read) == "broken"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2000), st.integers(1, 255))
def test_a_flipped_byte_is_an_image_or_broken(place: int, change: int) -> None:
    content = bytearray(encoded(0, "JPEG"))
    content[place % len(content)] ^= change
    try:
        found = ImageBytes(bytes(content)).read()
    except Unusable:
        return
    assert found.dtype == np.uint8
    assert found.shape[2] == 3


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGB"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    picture(0).convert(mode).save(buffer, "JPEG" if mode == "CMYK" else "PNG")
    assert ImageBytes(buffer.getvalue()).read().shape == (40, 40, 3)


def test_transparency_is_white_and_a_camera_turned_is_upright() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (2, 1), (255, 0, 0, 0)).save(buffer, "PNG")
    assert ImageBytes(buffer.getvalue()).read().tolist() == [[[255] * 3] * 2]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    buffer = io.BytesIO()
    picture(0, width=20, height=10).save(buffer, "PNG", exif=exif)
    assert ImageBytes(buffer.getvalue()).read().shape == (20, 10, 3)


@pytest.mark.parametrize("value", [None, "", b"", 3, ["a"], {"bytes": None, "path": None}, {}])
def test_cells_that_hold_no_image(value: object, folder: Path) -> None:
    assert reason(lambda: side_of(value, folder)) == "wrong columns"


def test_a_path_from_the_hub_is_none() -> None:
    assert reason(lambda: side_of("images/0.png", None)) == "wrong columns"


def test_latents(tmp_path: Path) -> None:
    """Half precision comes as float32; integers, NaN, another key and another kind of file are broken."""
    good = torch.arange(4.0).view(1, 2, 2).half()
    tensors = {
        "good": {"latent": good},
        "integers": {"latent": good.int()},
        "nan": {"latent": good / 0},
        "key": {"latents": good},
    }
    for name, each in tensors.items():
        save_file(each, tmp_path / f"{name}.safetensors")
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04K\x01.")
    read = LatentFile(tmp_path, "good.safetensors").read()
    assert read.dtype == torch.float32
    assert torch.equal(read, good.float())
    for name in ("integers", "nan", "key", "pickle"):
        assert reason(LatentFile(tmp_path, f"{name}.safetensors").read) == "broken"
    assert reason(LatentFile(tmp_path / "x", "../good.safetensors").read) == "path that leaves the folder"


@pytest.mark.parametrize("prompt", [None, "", " \n", 3, ["a"], "\ud800"])
def test_texts_that_are_no_prompt(prompt: object) -> None:
    assert reason(lambda: prompt_of({"prompt": prompt}, "prompt")) == "no prompt"


@pytest.mark.parametrize("prompt", ["a\0b", "x" * 10_000, "🦊", "\u202eabc", "<script>alert(1)</script>", "a\nb"])
def test_texts_that_are_prompts(prompt: str) -> None:
    assert prompt_of({"prompt": prompt}, "prompt") == prompt
