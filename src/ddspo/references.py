"""Real images that generated ones are measured against: those of a folder, or of a table's column `image`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from ddspo.errors import InputError, quoted
from ddspo.images import Unreadable, image_size, read_image
from ddspo.parquet import open_parquet, parquet_rows
from ddspo.places import local

KEY, COLUMN = "evaluate.references", "image"
"""Who names them, in messages, unless told otherwise; and what a table calls them."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
AT_ONCE = 16
"""Rows of a table that are in memory at a time."""
DECODED = 256
"""Images that are decoded before long work, evenly spaced; of all others the first bytes are looked at."""
NARROWEST = 16
"""A longer side of more than so many times the shorter is no picture, and takes very much memory to be fitted."""


class References(NamedTuple):
    """How many there are, and each with its name, encoded."""

    total: int
    images: Iterator[tuple[str, Path | bytes]]


def read_references(place: str, key: str = KEY) -> Iterator[np.ndarray]:
    """All images [H, W, 3] uint8, of any sizes, one in memory at a time.

    Args:
        place: A folder of images, in the order of their names, or a parquet file.

    Raises:
        InputError: There is neither, or one of them is no image; says which.
    """
    for name, source in _find(place, key).images:
        try:
            yield read_image(source)
        except Unreadable as fault:
            raise _unusable(key, place, name, str(fault)) from None


def check_references(place: str, key: str = KEY) -> None:
    """Find out before long work what cannot be used.

    Raises:
        InputError: As `read_references` does, or there are fewer than two, or one is a mere strip.
    """
    total, images = _find(place, key)
    if total < 2:
        raise InputError(f"{key}: {place} holds {total or 'no'} image, and a distance takes two or more: give more")
    step = -(-total // DECODED)
    for number, (name, source) in enumerate(images):
        try:
            height, width = image_size(source) if number % step else read_image(source).shape[:2]
        except Unreadable as fault:
            raise _unusable(key, place, name, str(fault)) from None
        if max(width, height) > NARROWEST * min(width, height):
            raise _unusable(key, place, name, f"{width} x {height} is no picture")


def _find(place: str, key: str) -> References:
    path = local(place) or Path(place)
    if path.is_dir():
        seen = (each for each in path.iterdir() if each.suffix.lower() in SUFFIXES and each.name[0] != ".")
        files = sorted(each for each in seen if each.is_file())
        return References(len(files), ((each.name, each) for each in files))
    if not path.is_file():
        raise InputError(f"{key}: no file or folder {path}: give one, or leave the key out")
    table, names = open_parquet(path, f"{key}: {path}")
    if COLUMN not in names:
        raise InputError(f"{key}: {path}: no column {COLUMN} but {', '.join(names):.200}: rename that of the images")
    return References(table.metadata.num_rows, _cells(path, key, table))


def _cells(path: Path, key: str, table: pq.ParquetFile) -> Iterator[tuple[str, bytes]]:
    for number, row in enumerate(parquet_rows(table, f"{key}: {path}", [COLUMN], AT_ONCE), start=1):
        yield f"row {number}", _content(path, key, number, row[COLUMN])


def _content(path: Path, key: str, number: int, value: Any) -> bytes:
    """The file in a cell, which is its bytes, or `datasets`' struct of {bytes, path}."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes) or not content:
        raise _unusable(key, str(path), f"row {number}", f"{quoted(value, 60)} in place of an image file's bytes")
    return content


def _unusable(key: str, place: str, name: str, why: str) -> InputError:
    return InputError(f"{key}: {place}: {name}: {why}: take it out or replace it")
