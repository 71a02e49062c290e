"""A table with a prompt, a chosen and a rejected image a row: CSV, JSON, JSONL, parquet, or a `datasets` id."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from typing_extensions import Doc

from ddspo.errors import InputError
from ddspo.maths.pair import Pair
from ddspo.preferences._rows import Found, LeftOut
from ddspo.preferences._sides import side_of
from ddspo.preferences._tables import check_columns, column_of, table_rows, table_size
from ddspo.preferences.base import Preference, Preferences, first_of, number_of, prompt_of

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
    chosen_score: Annotated[
        str | None, Doc("a column of numbers, more being better, of objectives that weigh by scores; null: none")
    ] = None
    rejected_score: Annotated[str | None, Doc("the same of the rejected image; rows without both are left out")] = None

    @property
    def has_scores(self) -> bool:
        """Of two columns, if they are named."""
        return bool(self._scored)

    def check(self, source: str) -> None:
        """Its columns."""
        first = first_of(self.rows(source), source)
        if len(self._scored) == 1:
            raise InputError("dataset.format.table: of chosen_score and rejected_score one is missing: name both")
        check_columns(source, "table", first.row, self._columns(first) | self._scored)

    def count(self, source: str) -> int | None:
        """From the ends of parquet files."""
        return table_size(source, self.split)

    def rows(self, source: str) -> Iterator[Found | LeftOut]:
        """File by file."""
        return table_rows(source, self.split)

    def pairs(self, found: Found) -> Iterator[Preference]:
        """One."""
        prompt, *sides = self._columns(found).values()
        win, lose = (side_of(found.row.get(name), found.root) for name in sides)
        scores = Pair(*(number_of(found.row, name) for name in self._scored.values())) if self._scored else None
        yield Preference(found.place, prompt_of(found.row, prompt), Pair(win, lose), scores=scores)

    @property
    def _scored(self) -> dict[str, str]:
        """The columns of scores by the options that name them."""
        options = {"chosen_score": self.chosen_score, "rejected_score": self.rejected_score}
        return {name: column for name, column in options.items() if column is not None}

    def _columns(self, found: Found) -> dict[str, str]:
        given = {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}
        return {name: column_of(found.row, given[name], name, aliases) for name, aliases in ALIASES.items()}
