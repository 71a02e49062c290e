"""Pick-a-Pic v1 and v2: two images of a prompt as JPEG bytes, and which of them a user of its site preferred."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from typing_extensions import Doc

from ddspo.maths.pair import Pair
from ddspo.preferences._rows import Found, LeftOut
from ddspo.preferences._sides import Unusable, side_of
from ddspo.preferences._tables import table_rows, table_size
from ddspo.preferences.base import TIE, UNLABELLED, Preference, Preferences, are_numbers, need, prompt_of, value_of

LABELS = ("label_0", "label_1")
NEEDED = ("caption", "jpg_0", "jpg_1", *LABELS)
READ = (*NEEDED, "has_label", "ranking_id", "image_0_uid", "image_1_uid", "model_0", "model_1")


@dataclass(frozen=True)
class PickAPic(Preferences):
    """Rows with label 1 on one side; 0.5 on both is a tie (arXiv 2305.01569).

    The source is a folder of `train-*.parquet` files (`hf download`), one such file, or a `datasets` id, streamed.
    """

    split: Annotated[str, Doc("train, validation, test, validation_unique or test_unique")] = "train"

    def check(self, source: str) -> None:
        """Its columns."""
        need(table_rows(source, self.split, READ), NEEDED, source)

    def count(self, source: str) -> int | None:
        """From the parquet files' ends."""
        return table_size(source, self.split)

    def rows(self, source: str) -> Iterator[Found | LeftOut]:
        """File by file."""
        return table_rows(source, self.split, READ)

    def pairs(self, found: Found) -> Iterator[Preference]:
        """One."""
        row = found.row
        if row.get("has_label", True) is False:
            raise Unusable(UNLABELLED)
        labels = [value_of(row, name) for name in LABELS]
        if are_numbers(labels) and labels[0] == labels[1]:
            raise Unusable(TIE)
        if not are_numbers(labels) or sorted(labels) != [0, 1]:
            raise Unusable(UNLABELLED, f"{labels} in place of 1 and 0")
        win = labels.index(1)
        sides = Pair(*(side_of(row.get(f"jpg_{side}"), None) for side in (win, 1 - win)))
        notes = {
            "ranking_id": row.get("ranking_id"),
            **{
                f"{who}_{key}": row.get(name.format(side))
                for who, side in (("win", win), ("lose", 1 - win))
                for key, name in (("uid", "image_{}_uid"), ("model", "model_{}"))
            },
        }
        yield Preference(found.place, prompt_of(row, "caption"), sides, notes=notes)
