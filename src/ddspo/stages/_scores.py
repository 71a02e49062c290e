"""scores.jsonl read back: base and aligned, image by image."""

from collections import defaultdict
from collections.abc import Sequence

from ddspo.rows import Row

MODELS = ("base", "aligned")


def paired(rows: Sequence[Row]) -> list[dict[str, Row]]:
    """{base, aligned} of each prompt and seed of one split, in order; an image that only one model has is left out."""
    images: dict[tuple[int, int], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        images[row["item"], row["index"]][row["model"]] = row
    return [images[key] for key in sorted(images) if set(MODELS) <= set(images[key])]
