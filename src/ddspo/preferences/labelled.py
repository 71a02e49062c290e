"""Images that are each wanted or not, with no other to compare with: CSV, JSON, JSONL, parquet, or a `datasets` id."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from typing_extensions import Doc

from ddspo.errors import InputError
from ddspo.maths.pair import Pair
from ddspo.preferences._rows import Found, LeftOut
from ddspo.preferences._sides import Unusable, side_of
from ddspo.preferences._tables import check_columns, column_of, table_rows, table_size
from ddspo.preferences.base import UNLABELLED, Preference, Preferences, first_of, number_of, prompt_of
from ddspo.preferences.captions import IMAGES
from ddspo.rows import Row

ALIASES = {"image": IMAGES, "prompt": ("prompt", "caption", "text"), "label": ("label", "wanted", "liked")}
LABELS = {"true": True, "1": True, "1.0": True, 1: True} | dict.fromkeys(
    ("false", "0", "0.0", "-1", "-1.0", 0, -1), False
)
"""What a label may be, in a file of text or as a number; True is 1, and 1.0 too."""


@dataclass(frozen=True)
class Labelled(Preferences):
    """An image, the prompt that it was made for, and whether it is wanted: true or false, 1 or 0, 1 or -1.

    For objectives that take single samples, as `kto`. The source is a .csv, .json, .jsonl or .parquet file, a folder
    of `train-*.parquet` files, or a `datasets` id; paths of images are relative to the table's file and inside its
    folder. The same image of the same prompt counts once with each label.
    """

    labelled: ClassVar[bool] = True

    split: Annotated[str, Doc("of a folder or of a `datasets` id")] = "train"
    image: Annotated[
        str | None, Doc("its column; null: the first of image, file_name, jpg, jpeg, png, webp, path")
    ] = None
    prompt: Annotated[str | None, Doc("its column; null: the first of prompt, caption, text")] = None
    label: Annotated[str | None, Doc("its column; null: the first of label, wanted, liked")] = None
    threshold: Annotated[
        float | None, Doc("the label is a score, and images of this one or more are wanted; null: it is a label")
    ] = None

    def check(self, source: str) -> None:
        """Its columns, and the first label."""
        first = first_of(self.rows(source), source)
        columns = self._columns(first)
        check_columns(source, "labelled", first.row, columns)
        try:
            self._wanted(first.row, columns["label"])
        except Unusable as fault:
            mend = "name another column, or give dataset.format.labelled.threshold for scores"
            raise InputError(f"dataset.source {source}: {first.place}: {fault}: {mend}") from None

    def count(self, source: str) -> int | None:
        """From the ends of parquet files."""
        return table_size(source, self.split)

    def rows(self, source: str) -> Iterator[Found | LeftOut]:
        """File by file."""
        return table_rows(source, self.split)

    def pairs(self, found: Found) -> Iterator[Preference]:
        """One, of an image with itself."""
        image, prompt, label = self._columns(found).values()
        side, wanted = side_of(found.row.get(image), found.root), self._wanted(found.row, label)
        yield Preference(found.place, prompt_of(found.row, prompt), Pair(side, side), wanted=wanted)

    def _wanted(self, row: Row, label: str) -> bool:
        given = row.get(label)
        if given is None:
            raise Unusable(UNLABELLED)
        if self.threshold is not None:
            return number_of(row, label) >= self.threshold
        known = given.strip().lower() if isinstance(given, str) else given
        if not isinstance(known, str | int | float) or known not in LABELS:
            raise Unusable(UNLABELLED, f"{label}: {given!r} in place of true or false, 1 or 0, 1 or -1"[:200])
        return LABELS[known]

    def _columns(self, found: Found) -> dict[str, str]:
        given = {"image": self.image, "prompt": self.prompt, "label": self.label}
        return {name: column_of(found.row, given[name], name, aliases) for name, aliases in ALIASES.items()}
