"""What a layout is: it finds the images of a folder and the rows of their prompts, and writes such folders."""

import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from PIL import Image

from ddspo.errors import InputError, shortened
from ddspo.files import replace_atomically
from ddspo.judging.pictures import Gallery, Picture
from ddspo.rows import Row

SAMPLES = "samples"
"""Folder of images in both benchmarks' layouts."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Opened:
    """What a folder holds.

    Attributes:
        galleries: The images of one model each; nothing is decoded yet.
        faults: What cannot be used, a line each.
    """

    galleries: Sequence[Gallery]
    faults: Sequence[str]


class Layout(ABC):
    """A convention for folders of images. Folders are anyone's: no path is followed that leaves one."""

    writes: ClassVar[bool] = False
    """Whether others' tools read it, so that images are written in it."""

    @abstractmethod
    def recognises(self, folder: Path) -> bool:
        """Whether a folder is laid out so, by a look at its names."""

    @abstractmethod
    def read(self, folder: Path) -> Opened:
        """Find the images of such a folder.

        Raises:
            InputError: The folder cannot be read.
        """

    def write(self, folder: Path, pictures: Sequence[Picture]) -> None:
        """Write images of one model, where it `writes`.

        Raises:
            InputError: It has no place for a prompt.
        """
        raise NotImplementedError


def numbered(found: Iterable[tuple[Path, Row]]) -> list[Picture]:
    """Pictures of images and rows in order: each is the next image of its prompt."""
    counts: Counter[str] = Counter()
    pictures = []
    for path, row in found:
        pictures.append(Picture(path, row, row["prompt"], counts[row["prompt"]]))
        counts[row["prompt"]] += 1
    return pictures


def fault_of(row: Row, where: str) -> str | None:
    """What makes a row useless: it has no prompt."""
    prompt = row.get("prompt")
    return None if isinstance(prompt, str) and prompt.strip() else f"{where}: no prompt: give a text under 'prompt'"


def files(folder: Path) -> Iterator[Path]:
    """Image files of a folder by their names, in order; hidden ones are left out.

    Raises:
        InputError: It cannot be read.
    """
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
        yield from sorted(path for path in found if path.is_file())
    except OSError as error:
        raise InputError(f"{shortened(str(folder))}: {error.strerror}") from None


def write_png(source: Path, target: Path) -> None:
    """Copy a PNG file, or write another image as one."""
    if source.suffix.lower() == ".png":
        replace_atomically(target, partial(shutil.copyfile, source))
    else:
        with Image.open(source) as image:
            replace_atomically(target, partial(image.convert("RGB").save, format="PNG"))
