"""Renders the alignment prompts of `ddspo.scenes` as captioned images: `captioned_scenes.py OUT COUNT`.

The prompts are taken in turn, each time with another scene; `dataset: {source: OUT, format: captions}` reads them.
"""

import sys
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from ddspo.files import write_rows
from ddspo.images import write_image
from ddspo.scenes.prompts import scene_for, split_items
from ddspo.scenes.world import render


def main(folder: Path, count: int) -> None:
    """Write the images and `metadata.jsonl`."""
    rows = []
    for number, row in enumerate(islice(cycle(split_items("alignment")), count)):
        rng = np.random.default_rng(number)
        write_image(folder / f"{number:05d}.png", render(scene_for(row, rng), rng))
        rows.append({"file_name": f"{number:05d}.png", "text": row["prompt"]})
    write_rows(folder / "metadata.jsonl", rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
