"""One side of a pair: an image or a latent that a dataset names or holds, read only when it is asked for."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ddspo.images import BROKEN, Unreadable, read_image

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}
"""Of image files."""
MISSING, OUTSIDE, COLUMNS = "missing file", "path that leaves the folder", "wrong columns"


class Unusable(Exception):
    """A row cannot become a pair; `reason` is one of few, `detail` says what was found."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


class Side(ABC):
    """Where one image or latent is."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Equal for equal content in one dataset, as far as can be told without decoding it."""

    @abstractmethod
    def read(self) -> np.ndarray | Tensor:
        """An image [H, W, 3] uint8, or a latent in model space [C, h, w].

        Raises:
            Unusable: It is missing, broken, or unreasonably large.
        """


@dataclass(frozen=True)
class FileSide(Side):
    """A file inside a folder."""

    root: Path
    name: str

    @property
    def key(self) -> str:
        """Its name, however it is written."""
        return str(PurePosixPath(self.name))


@dataclass(frozen=True)
class ImageFile(FileSide):
    """An image file."""

    def read(self) -> np.ndarray:
        """Its pixels."""
        return _pixels(inside(self.root, self.name), self.name)


@dataclass(frozen=True)
class ImageBytes(Side):
    """An image file's content, from a column of a table."""

    content: bytes

    @property
    def key(self) -> str:
        """Its hash."""
        return hashlib.blake2b(self.content, digest_size=16).hexdigest()

    def read(self) -> np.ndarray:
        """Its pixels."""
        return _pixels(self.content, f"{len(self.content)} bytes")


@dataclass(frozen=True)
class LatentFile(FileSide):
    """A safetensors file that holds one latent in model space under `latent`."""

    def read(self) -> Tensor:
        """The latent in float32."""
        path = inside(self.root, self.name)
        try:
            with safe_open(path, "pt") as file:
                latent: Tensor = file.get_tensor("latent")
        except (SafetensorError, OSError) as error:
            raise Unusable(BROKEN, f"{self.name}: {error}") from None
        if not latent.is_floating_point():
            raise Unusable(BROKEN, f"{self.name}: {latent.dtype} in place of floating point numbers")
        if not latent.isfinite().all():
            raise Unusable(BROKEN, f"{self.name}: holds numbers that are not finite")
        return latent.float()


def side_of(value: Any, root: Path | None) -> Side:
    """The image of a table's cell: bytes, a path relative to `root`, or the {bytes, path} of `datasets`.

    Raises:
        Unusable: It is none of them.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return ImageBytes(value)
    if isinstance(value, str) and value and root:
        return ImageFile(root, value)
    shown = f"{type(value).__name__} {value!r}"
    raise Unusable(COLUMNS, f"{shown[:80]} in place of an image's {'bytes or path' if root else 'bytes'}")


def inside(root: Path, name: str) -> Path:
    """The file of a name that a dataset gave, which must lie inside its folder, links followed.

    A snapshot of the hub's cache links into `blobs` beside it, which counts as inside.

    Raises:
        Unusable: The name leads out of the folder, or there is no such file.
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\0" in name:
        raise Unusable(OUTSIDE, f"{name[:200]!r}")
    path, folders = root / pure, [root.resolve()]
    if root.absolute().parent.name == "snapshots":
        folders.append(root.absolute().parents[1].resolve() / "blobs")
    try:
        found = path.resolve()
        is_file = found.is_file()
    except (OSError, RuntimeError):  # a name too long for a file system, or links in a circle
        raise Unusable(MISSING, f"{name[:200]!r}") from None
    if not any(found.is_relative_to(folder) for folder in folders):
        raise Unusable(OUTSIDE, f"{name[:200]!r} is a link out of it")
    if not is_file:
        raise Unusable(MISSING, f"{name[:200]!r}")
    return found


def _pixels(source: Path | bytes, what: str) -> np.ndarray:
    try:
        return read_image(source)
    except Unreadable as fault:
        raise Unusable(fault.reason, f"{what}: {fault.detail}") from None
