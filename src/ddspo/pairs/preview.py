"""Pictures of a few pairs from all over a store, to look at."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ddspo.files import write_rows
from ddspo.pairs.shards import MADE
from ddspo.pairs.store import PairStore

PREVIEWS = 12

Decode = Callable[[Tensor], Sequence[NDArray[np.uint8]]]
"""From latents in model space to images [H, W, 3]."""


class Shown(NamedTuple):
    """A pair to look at: its prompt, the degraded one if there is any, and the images of the sides that are kept."""

    prompt: str
    degraded: str | None
    images: dict[str, NDArray[np.uint8]]


def preview(store: PairStore, folder: Path, decode: Decode, count: int = PREVIEWS) -> list[Shown]:
    """Write N-win.png and N-lose.png of some pairs, evenly spaced, and pairs.jsonl, which says what they are.

    Returns:
        What was written.
    """
    places = np.linspace(0, len(store) - 1, min(count, len(store)), dtype=int).tolist()
    folder.mkdir(parents=True, exist_ok=True)
    rows, shown = [], []
    for number, place in enumerate(places):
        latents, row = store.take([place]).latents._asdict(), store.row(place)
        decoded = decode(torch.cat([latents[side] for side in store.sides]).float())
        images = dict(zip(store.sides, decoded, strict=True))
        for side, image in images.items():
            Image.fromarray(image).save(folder / f"{number}-{side}.png")
        shown.append(Shown(row["prompt"], row.get("degraded"), images))
        rows.append({"n": number, "sides": [*images]} | {key: value for key, value in row.items() if key not in MADE})
    write_rows(folder / "pairs.jsonl", rows)
    return shown
