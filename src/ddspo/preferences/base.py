"""What a format of preference datasets is: it reads rows, one after the other, and says who won."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from math import isfinite, nan
from pathlib import Path
from sys import float_info
from typing import Any, ClassVar, TypeGuard

from ddspo.errors import InputError
from ddspo.maths.pair import Pair
from ddspo.preferences._rows import Found, LeftOut
from ddspo.preferences._sides import COLUMNS, Side, Unusable
from ddspo.rows import Row

MOST = float_info.max
"""Of a number; a file may hold longer integers."""
TIE, UNLABELLED, PROMPT = "tie", "no label", "no prompt"


@dataclass(frozen=True)
class Preference:
    """A prompt, and which of two images of it was preferred.

    Attributes:
        place: Where the dataset has it, for messages.
        prompt: What the images were made for.
        sides: The preferred and the dispreferred image or latent; the very same where there is one alone.
        degraded: The prompt that the loser was made for, if that is another.
        notes: What else the dataset says of the pair.
        kind: What was done to the prompt to make the degraded one.
        scores: What the dataset gives either side, more being better; for all pairs of a format that has them.
        wanted: Of a labelled image, whether it is.
    """

    place: str
    prompt: str
    sides: Pair[Side]
    degraded: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    kind: str | None = None
    scores: Pair[float] | None = None
    wanted: bool | None = None


class Preferences(ABC):
    """A format. Subclasses find the rows and turn each into pairs."""

    degraded: ClassVar[bool] = False
    """Whether pairs have a degraded prompt, without which `training_free` has no target."""
    alone: ClassVar[bool] = False
    """Whether a row is one image of a prompt, which wins over none: then the recipe's degradation makes it poorer."""
    labelled: ClassVar[bool] = False
    """Whether a row is one image of a prompt and says whether it is wanted."""

    @property
    def has_scores(self) -> bool:
        """Whether each pair has scores of both sides."""
        return False

    @abstractmethod
    def check(self, source: str) -> None:
        """Find out early that there is nothing to read; decodes no image.

        Raises:
            InputError: There is no such file, folder or id, or it has other columns.
        """

    @abstractmethod
    def rows(self, source: str) -> Iterator[Found | LeftOut]:
        """The rows of a dataset, always in the same order."""

    @abstractmethod
    def pairs(self, found: Found) -> Iterator[Preference | LeftOut]:
        """The pairs of a row: one, or several where it ranks more than two images.

        Raises:
            Unusable: The row gives none.
        """

    def count(self, source: str) -> int | None:
        """How many rows there are, where that costs nothing; None: not known before they are read."""
        return None

    def read(self, source: str) -> Iterator[Preference | LeftOut]:
        """All pairs of a dataset, and everything that gives none."""
        for found in self.rows(source):
            if isinstance(found, LeftOut):
                yield found
                continue
            try:
                yield from self.pairs(found)
            except Unusable as fault:
                yield LeftOut(found.place, fault.reason, fault.detail)

    def prompts(self, source: str, at_most: int | None) -> Iterator[Row]:
        """Rows {id, prompt} of the different prompts that the first rows have; decodes no image."""
        seen: set[str] = set()
        for number, each in enumerate(islice(self.read(source), at_most)):
            if isinstance(each, Preference) and each.prompt not in seen:
                seen.add(each.prompt)
                yield {"id": f"{number:08d}", "prompt": each.prompt}


def prompt_of(row: Row, name: str) -> str:
    """The text of a column.

    Raises:
        Unusable: There is none, or it is no text that a file can hold.
    """
    prompt = row.get(name)
    if not isinstance(prompt, str) or not prompt.strip():
        raise Unusable(PROMPT, f"{name}: {prompt!r}"[:200])
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise Unusable(PROMPT, f"{name}: half of a surrogate pair at {error.start}") from None
    return prompt


def value_of(row: Row, name: str) -> Any:
    """The value of a column that must be there.

    Raises:
        Unusable: It is not.
    """
    if row.get(name) is None:
        raise Unusable(COLUMNS, f"{name} is missing")
    return row[name]


def number_of(row: Row, name: str) -> float:
    """The finite number of a column, which may be written as text.

    Raises:
        Unusable: It is none.
    """
    try:
        number = float(value_of(row, name))
    except (TypeError, ValueError, OverflowError):
        number = nan
    if not isfinite(number):
        raise Unusable(COLUMNS, f"{name}: {row[name]!r} in place of a number"[:200])
    return number


def ranked(
    found: Found, prompt: str, images: Sequence[Side], ranks: Sequence[float]
) -> Iterator[Preference | LeftOut]:
    """Every two images of one prompt, the one of the smaller rank winning; equal ranks are ties.

    Scores are the ranks with the other sign: a gap counts ranks.
    """
    for one, other in combinations(range(len(images)), 2):
        place = f"{found.place}[{one},{other}]" if len(images) > 2 else found.place
        if ranks[one] == ranks[other]:
            yield LeftOut(place, TIE, "")
        else:
            win, lose = (one, other) if ranks[one] < ranks[other] else (other, one)
            scores = Pair(win, lose).map(lambda side: -float(ranks[side]))
            yield Preference(place, prompt, Pair(images[win], images[lose]), scores=scores)


def are_numbers(values: Any) -> TypeGuard[list[float]]:
    """Whether it is a list of finite numbers."""
    return isinstance(values, list) and all(isinstance(each, int | float) and abs(each) <= MOST for each in values)


def first_of(rows: Iterator[Found | LeftOut], source: str) -> Found:
    """The first row.

    Raises:
        InputError: There is none.
    """
    found = next((each for each in rows if isinstance(each, Found)), None)
    if found is None:
        raise InputError(f"dataset.source {source}: holds no row that can be read: check the path")
    return found


def need(rows: Iterator[Found | LeftOut], columns: Sequence[str], source: str) -> None:
    """Fail where the first row lacks columns that the format has.

    Raises:
        InputError: It does, or there is no row.
    """
    first = first_of(rows, source)
    missing = [name for name in columns if name not in first.row]
    if missing:
        there = ", ".join(map(str, first.row)) or "nothing"
        raise InputError(
            f"dataset.source {source}: {first.place} has no {', '.join(missing)} but {there}: "
            "is dataset.format that of this dataset?"
        )


def folder_of(source: str) -> Path:
    """A folder that must be there.

    Raises:
        InputError: It is not.
    """
    path = Path(source).expanduser()
    if not path.is_dir():
        raise InputError(
            f"dataset.source {source}: no folder there: check the path (relative ones start where you are)"
        )
    return path


def file_of(folder: Path, name: str) -> Path:
    """A file that must be in a folder.

    Raises:
        InputError: It is not.
    """
    if not (folder / name).is_file():
        raise InputError(f"dataset.source {folder}: holds no {name}: check the path, dataset.format and its split")
    return folder / name
