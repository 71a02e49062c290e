"""HPDv3 as its files are: a JSON list of image paths, the preferred one first, and unpacked images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le
from typing_extensions import Doc

from ddspo.maths.pair import Pair
from ddspo.preferences._rows import Found, LeftOut, file_rows
from ddspo.preferences._sides import COLUMNS, Unusable, side_of
from ddspo.preferences.base import TIE, Preference, Preferences, are_numbers, file_of, folder_of, need, prompt_of
from ddspo.rows import Row

UNSURE, UNCOUNTED = "too little confidence", "votes that are not known"


@dataclass(frozen=True)
class HPDv3(Preferences):
    """`path1` won over `path2`, by the votes in `choice_dist` where they are known (arXiv 2508.03789).

    The source is the folder with `train.json`, `test.json` and, unpacked, `images/`.
    """

    split: Annotated[Literal["train", "test"], Doc("which list is read")] = "train"
    confidence: Annotated[
        float, Ge(0), Le(1), Doc("pairs whose `confidence` is known and smaller are left out; 0: none are")
    ] = 0.0
    scores: Annotated[
        bool, Doc("the shares of votes become scores; pairs whose `choice_dist` is not known are left out then")
    ] = False

    @property
    def has_scores(self) -> bool:
        """Shares of votes, if asked for."""
        return self.scores

    def check(self, source: str) -> None:
        """Its keys."""
        need(self.rows(source), ("path1", "path2"), source)

    def rows(self, source: str) -> Iterator[Found | LeftOut]:
        """Items of the list."""
        return file_rows(file_of(folder_of(source), f"{self.split}.json"))

    def pairs(self, found: Found) -> Iterator[Preference]:
        """One."""
        row, votes, confidence = found.row, _votes(found.row), found.row.get("confidence")
        if votes and votes.win <= votes.lose:
            reason = TIE if votes.win == votes.lose else COLUMNS
            raise Unusable(reason, f"{[*votes]} votes, and path1 should have more")
        if self.scores and not votes:
            raise Unusable(UNCOUNTED)
        if isinstance(confidence, int | float) and confidence < self.confidence:
            raise Unusable(UNSURE, f"{confidence:g}")
        sides = Pair(side_of(row.get("path1"), found.root), side_of(row.get("path2"), found.root))
        notes = {"win_model": row.get("model1"), "lose_model": row.get("model2"), "confidence": confidence}
        prompt = prompt_of(row, "prompt" if "prompt" in row else "caption")
        scores = votes.map(lambda side: side / sum(votes)) if self.scores and votes else None
        yield Preference(found.place, prompt, sides, notes=notes, scores=scores)


def _votes(row: Row) -> Pair[float] | None:
    """For either image, where they are known."""
    votes = row.get("choice_dist")
    return Pair(*votes) if are_numbers(votes) and len(votes) == 2 and min(votes) >= 0 else None
