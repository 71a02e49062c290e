"""What an evaluation left, read back: who drew which picture, and what each metric says of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ddspo.errors import InputError
from ddspo.rows import Row, each_row, read_rows
from ddspo.run_folder import RunFolder

Place = tuple[str, int]
"""A prompt, and the number of an image among those of the prompt."""


@dataclass
class Frame:
    """What all models drew for one prompt from one seed.

    Attributes:
        images: Files relative to the run folder, by model; None where there is none.
        scores: Score rows by metric and model.
    """

    item: str
    index: int
    prompt: str
    tag: str
    images: dict[str, str | None] = field(default_factory=dict)
    scores: dict[str, dict[str, Row]] = field(default_factory=dict)

    def change(self, metric: str, first: str, model: str) -> float | None:
        """Value of a model minus that of the first; None where one of them has none."""
        rows = self.scores.get(metric, {})
        return rows[model]["value"] - rows[first]["value"] if {first, model} <= rows.keys() else None


def score_rows(run: RunFolder, metric: str) -> list[Row]:
    """Rows of a metric on the evaluation prompts, each image against its own row.

    Raises:
        InputError: There are none.
    """
    path = run.scores / f"{metric}.jsonl"
    if not path.is_file():
        raise InputError(f"{path}: no such file: run `ddspo evaluate`")
    return [row for row in each_row(path) if row["split"] == "evaluation" and not row["control"]]


def frames(scores: Mapping[str, Sequence[Row]]) -> list[Frame]:
    """The pictures that some metrics scored, by prompt and seed."""
    found: dict[Place, Frame] = {}
    for metric, rows in scores.items():
        for row in rows:
            place = row["item"], row["index"]
            frame = found.setdefault(place, Frame(*place, row["prompt"], row["tag"]))
            frame.images[row["model"]] = row["image"]
            frame.scores.setdefault(metric, {})[row["model"]] = row
    return [found[place] for place in sorted(found)]


def is_verdict(rows: Sequence[Row]) -> bool:
    """Whether every value is 0 or 1: an image is wrong or right."""
    return all(row["value"] in (0, 1) for row in rows)


def drawn_rows(run: RunFolder, model: str) -> list[Row]:
    """Rows {item, index, seed, prompt, file_name, ...} of the images that a model drew; empty if it is not through."""
    path = drawn_by(run, model)
    return read_rows(path) if path.is_file() else []


def drawn_by(run: RunFolder, model: str) -> Path:
    """Where a model's rows are, beside its images."""
    return run.images / model / "metadata.jsonl"


def pairs(first: Sequence[Row], second: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Rows of two models by prompt and seed, in order; what only one of them drew is left out."""
    known = {(row["item"], row["index"], row["seed"]): row for row in second}
    places = ((row, (row["item"], row["index"], row["seed"])) for row in first)
    both = [(row, known[place]) for row, place in places if place in known]
    return sorted(both, key=lambda pair: (pair[0]["item"], pair[0]["index"]))
