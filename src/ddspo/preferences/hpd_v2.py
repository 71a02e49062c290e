"""HPDv2 as its files are: a JSON list of rankings beside folders of images, without its loading script."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from typing_extensions import Doc

from ddspo.preferences._rows import Found, LeftOut, file_rows
from ddspo.preferences._sides import COLUMNS, Unusable, side_of
from ddspo.preferences.base import Preference, Preferences, are_numbers, file_of, folder_of, need, prompt_of, ranked

KEYS = {"train": ("file_path", "human_preference"), "test": ("image_path", "rank")}


@dataclass(frozen=True)
class HPDv2(Preferences):
    """Every two images that a row does not rank alike (arXiv 2306.09341).

    The source is the folder with `train.json`, `test.json` and, unpacked, `train/` and `test/`. Scores are the ranks
    of `test`; one choice between two images, as in `train`, is no score.
    """

    split: Annotated[Literal["train", "test"], Doc("which list is read")] = "train"

    @property
    def has_scores(self) -> bool:
        """Ranks."""
        return self.split == "test"

    def check(self, source: str) -> None:
        """Its keys."""
        need(self.rows(source), ("prompt", *KEYS[self.split]), source)

    def rows(self, source: str) -> Iterator[Found | LeftOut]:
        """Items of the list."""
        return file_rows(file_of(folder_of(source), f"{self.split}.json"))

    def pairs(self, found: Found) -> Iterator[Preference | LeftOut]:
        """One of two images, n (n - 1) / 2 of n."""
        files, ranks = KEYS[self.split]
        names, places = found.row.get(files), found.row.get(ranks)
        if not (isinstance(names, list) and are_numbers(places) and len(names) == len(places)):
            raise Unusable(COLUMNS, f"{files} and {ranks} are no lists of one length, one of numbers")
        images = [side_of(self._path(name), found.root) for name in names]
        # 1 is the preferred one of two in train.json, and the best of all in test.json.
        order = [-rank for rank in places] if self.split == "train" else places
        return ranked(found, prompt_of(found.row, "prompt"), images, order)

    def _path(self, name: object) -> object:
        """Names without a folder are those of the split's own."""
        return f"{self.split}/{name}" if isinstance(name, str) and "/" not in name else name
