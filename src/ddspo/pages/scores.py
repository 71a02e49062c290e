"""scores.jsonl read back: base and aligned, image by image."""

from collections import defaultdict
from collections.abc import Sequence

from ddspo.rows import Row
from ddspo.run_folder import MODELS


def paired(rows: Sequence[Row]) -> list[dict[str, Row]]:
    """{base, aligned} of each prompt and seed of one split, in order; an image that only one model has is left out."""
    images: dict[tuple[int, int], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        images[row["item"], row["index"]][row["model"]] = row
    return [images[key] for key in sorted(images) if set(MODELS) <= set(images[key])]


def grouped(prompts: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by their tag, in order of first appearance."""
    groups: dict[str, list[Row]] = {}
    for prompt in prompts:
        groups.setdefault(prompt["tag"], []).append(prompt)
    return groups
