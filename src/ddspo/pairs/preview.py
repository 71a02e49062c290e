"""Pictures of a few pairs from all over a store, to look at."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ddspo.maths.pair import Pair, cat
from ddspo.pairs.shards import MADE
from ddspo.pairs.store import PairStore
from ddspo.run_folder import write_rows

PREVIEWS = 12

Decode = Callable[[Tensor], Sequence[NDArray[np.uint8]]]
"""From latents in model space to images [H, W, 3]."""

Shown = Pair[NDArray[np.uint8]]
"""Both images of a pair."""


def preview(store: PairStore, folder: Path, decode: Decode, count: int = PREVIEWS) -> list[Shown]:
    """Write N-win.png and N-lose.png of some pairs, evenly spaced, and pairs.jsonl, which says what they are.

    Returns:
        Both images of each.
    """
    places = np.linspace(0, len(store) - 1, min(count, len(store)), dtype=int).tolist()
    folder.mkdir(parents=True, exist_ok=True)
    rows, shown = [], []
    for number, place in enumerate(places):
        shown.append(Pair(*decode(cat(store.take([place]).latents).float())))
        for side, image in shown[-1]._asdict().items():
            Image.fromarray(image).save(folder / f"{number}-{side}.png")
        row = store.row(place)
        rows.append({"n": number} | {key: value for key, value in row.items() if key not in MADE})
    write_rows(folder / "pairs.jsonl", rows)
    return shown
