"""A table with a prompt, a chosen and a rejected image a row: CSV, JSON, JSONL, parquet, or a `datasets` id."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from typing_extensions import Doc

from ddspo.errors import InputError
from ddspo.maths.pair import Pair
from ddspo.preferences._rows import Found, LeftOut
from ddspo.preferences._sides import side_of
from ddspo.preferences._tables import table_rows, table_size
from ddspo.preferences.base import Preference, Preferences, first_of, prompt_of

ALIASES = {
    "prompt": ("prompt", "caption", "text"),
    "chosen": ("chosen", "win", "winner", "preferred", "chosen_image", "preferred_image"),
    "rejected": ("rejected", "lose", "loser", "dispreferred", "rejected_image", "dispreferred_image"),
}


@dataclass(frozen=True)
class Table(Preferences):
    """Images are paths relative to the table's file and inside its folder, or the content of image files.

    The source is a .csv, .json, .jsonl or .parquet file, a folder of `train-*.parquet` files, or a `datasets` id.
    """

    split: Annotated[str, Doc("of a folder or of a `datasets` id")] = "train"
    prompt: Annotated[str | None, Doc("its column; null: the first there is of prompt, caption, text")] = None
    chosen: Annotated[
        str | None, Doc("its column; null: the first of chosen, win, winner, preferred and the like")
    ] = None
    rejected: Annotated[
        str | None, Doc("its column; null: the first of rejected, lose, loser, dispreferred and the like")
    ] = None

    def check(self, source: str) -> None:
        """Its columns."""
        first = first_of(self.rows(source), source)
        for name in ALIASES:
            column = self._column(first, name)
            if column not in first.row:
                there, key = ", ".join(map(str, first.row)), f"dataset.format.table.{name}"
                raise InputError(f"dataset.source {source}: no column {column} but {there}: name it with {key}")

    def count(self, source: str) -> int | None:
        """From the ends of parquet files."""
        return table_size(source, self.split)

    def rows(self, source: str) -> Iterator[Found | LeftOut]:
        """File by file."""
        return table_rows(source, self.split)

    def pairs(self, found: Found) -> Iterator[Preference]:
        """One."""
        prompt, *sides = (self._column(found, name) for name in ALIASES)
        win, lose = (side_of(found.row.get(name), found.root) for name in sides)
        yield Preference(found.place, prompt_of(found.row, prompt), Pair(win, lose))

    def _column(self, found: Found, name: str) -> str:
        given: str | None = {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}[name]
        return given or next((alias for alias in ALIASES[name] if alias in found.row), name)
