"""Images that wait to be judged: files, each with the row of its prompt."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddspo.rows import Row

BOOKKEEPING = frozenset(("id", "file_name", "item", "index", "seed", "scale"))
"""Of a row: where its image is and how it was made, which no metric reads."""


@dataclass(frozen=True)
class Picture:
    """An image file, the row of its prompt, and its number among the images of that prompt.

    Attributes:
        item: Whatever tells its prompt from others: pictures of two galleries with equal item and index are compared.
    """

    path: Path
    row: Row
    item: str
    index: int


@dataclass(frozen=True)
class Gallery:
    """What one model drew."""

    name: str
    pictures: Sequence[Picture]


def image_digest(image: np.ndarray) -> str:
    """Of the pixels [H, W, 3] uint8, whatever file they come from."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def row_digest(row: Mapping[str, Any]) -> str:
    """Of all that a metric may read of a row."""
    read = {key: value for key, value in row.items() if key not in BOOKKEEPING}
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()
