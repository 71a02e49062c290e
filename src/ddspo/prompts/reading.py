"""From a source to rows with `id` and `prompt`, one in memory at a time: checked, chosen, and counted."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

from ddspo.errors import InputError, quoted
from ddspo.prompts.addresses import is_address, read_address
from ddspo.prompts.dataset import read_dataset
from ddspo.prompts.files import Columns, Rows, find, read
from ddspo.prompts.filters import Filter
from ddspo.prompts.language import Language
from ddspo.prompts.seen import Seen
from ddspo.prompts.source import Source
from ddspo.rows import Row

OUTCOMES = (
    "kept",
    "not meeting prompts.where",
    "too short",
    "too long",
    "merged with an equal one",
    "in another language",
)
TELLING = frozenset({"degraded", "negative_prompt"})
"""Columns whose owner may think that they are read."""
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def sound(row: Row) -> str | None:
    """The fault of a row that nobody else judges: none."""
    return None


@dataclass
class Reading:
    """One pass over a source.

    Attributes:
        name: The recipe key that the source came from, for messages.
        whole: Keep all columns that JSON has words for, or `id` and `prompt` only.
        fault: What is wrong with a whole row for whoever will use it, or None.
        at_most: Rows of the source to look at; None: all.
        also: A further column that is kept.
        counts: What became of them so far, by outcome.
        unread: Columns of `TELLING` that rows had so far and nobody reads.
    """

    source: Source
    name: str = "prompts"
    whole: bool = False
    fault: Callable[[Row], str | None] = sound
    at_most: int | None = None
    also: str | None = None
    counts: Counter[str] = field(default_factory=Counter, init=False)
    unread: set[str] = field(default_factory=set, init=False)

    def __iter__(self) -> Iterator[Row]:
        """Rows with `id`, unique, and `prompt`, not empty.

        Raises:
            InputError: The source cannot be read, a row is no prompt, an id is bad or there twice, or nothing is left.
        """
        choice, ids, counts = _Choice.of(self.source), Seen(), self.counts
        telling = TELLING - self._needed
        for number, (where, row) in enumerate(islice(self._rows(), self.at_most), start=1):
            place = f"{self.name}: {where}"
            outcome = choice(row, place)
            counts[outcome] += 1
            self.unread.update(name for name in telling if row.get(name))
            if outcome == "kept":
                found = self._row(row, number, place)
                if not ids.add(found["id"]):
                    raise InputError(
                        f"{place}: id {quoted(found['id'])} is also that of an earlier row: make ids unique"
                    )
                yield found
                if counts["kept"] == self.source.limit:
                    return
        if not counts["kept"] and (self.at_most is None or counts.total() < self.at_most):
            raise InputError(f"{self.name}: {self.source.path} holds no prompt to use: {self}")

    def __str__(self) -> str:
        numbers = {name: self.counts[name] for name in OUTCOMES}
        told = [f"{number:,} {name}" for name, number in numbers.items() if number or name == "kept"]
        return f"{self.counts.total():,} read: {', '.join(told)}"

    def _rows(self) -> Rows:
        source, needed = self.source, self._needed
        columns = Columns(needed, None if self.whole else needed | TELLING | {"id"})
        if source.is_dataset:
            yield from read_dataset(source.path, source.config, source.split or "train", source.revision, columns)
            return
        made = is_address(source.path)
        for option in ("config", "revision", *(("split",) if made else ())):
            if getattr(source, option):
                raise InputError(f"{self.name}.{option}: only a dataset of the hub has one: leave it out")
        if made:
            yield from read_address(source.path, self.name)
            return
        for path in find(source.path, self.name):
            yield from read(path, columns)

    @cached_property
    def _needed(self) -> frozenset[str]:
        """Columns that are read."""
        source = self.source
        named = {source.column, *(each.column for each in source.filters), *([self.also] if self.also else ())}
        return frozenset(named | ({source.id or "id"} - {"id"}))

    def _row(self, row: Row, number: int, place: str) -> Row:
        """A checked row; what is not kept of it is not looked at."""
        kept = row if self.whole else {name: row[name] for name in row if name == self.also}
        found = kept | {"id": self._id(row, number, place), "prompt": row[self.source.column]}
        try:
            json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{place}: holds what JSON has no word for ({error}): mend the row") from None
        fault = self.fault(found)
        if fault:
            raise InputError(f"{place}: {fault}: give a row that the metric can read")
        return found

    def _id(self, row: Row, number: int, place: str) -> str:
        column = self.source.id
        key = row.get(column) if column else None
        if key is None and column in (None, "id"):
            return f"p{number:06d}"
        if isinstance(key, int) and not isinstance(key, bool):
            key = str(key)
        if not isinstance(key, str) or not _ID.fullmatch(key):
            raise InputError(
                f"{place}: id {key!r:.100}: use up to 64 letters, digits, '_', '-' and '.', not starting with '.' or "
                f"'-', or number the rows with {self.name}.id=null"
            )
        return key


@dataclass
class _Choice:
    """Which rows are used; the cheap questions come first."""

    source: Source
    filters: tuple[Filter, ...]
    language: Language | None
    seen: Seen = field(default_factory=Seen)

    @classmethod
    def of(cls, source: Source) -> "_Choice":
        return cls(source, source.filters, Language(source.language) if source.language else None)

    def __call__(self, row: Row, place: str) -> str:
        """The outcome of a row.

        Raises:
            InputError: It is no prompt, and no option leaves it out.
        """
        source = self.source
        if not all(each.holds(row, place) for each in self.filters):
            return "not meeting prompts.where"
        prompt = _text(row.get(source.column), source.column, place)
        words = prompt.split()
        if len(words) < source.min_words or len(prompt) < source.min_characters:
            return "too short"
        if not words:
            raise InputError(
                f"{place}: no prompt: give a text under {quoted(source.column)} (min_words: 1 leaves such prompts out)"
            )
        if _above(len(words), source.max_words) or _above(len(prompt), source.max_characters):
            return "too long"
        if source.duplicates == "merge" and not self.seen.add(" ".join(words)):
            return "merged with an equal one"
        return "in another language" if self.language and not self.language.may_be(prompt) else "kept"


def _text(value: Any, column: str, place: str) -> str:
    if not isinstance(value, str | None):
        raise InputError(
            f"{place}: no prompt: {value!r:.60} under {quoted(column)} is {type(value).__name__}: give a text"
        )
    return value or ""


def _above(size: int, most: int | None) -> bool:
    return most is not None and size > most


def read_prompts(path: str, name: str, fault: Callable[[Row], str | None] = sound) -> list[Row]:
    """All rows of a short list, whole and as they are: `id`, `prompt` and whatever else a metric needs.

    Args:
        path: As `Source.path`.
        name: The recipe key that it came from, for messages.
        fault: What is wrong with a row for whoever will use it, or None.

    Raises:
        InputError: As `Reading` does.
    """
    return list(Reading(Source(path, duplicates="keep"), name, whole=True, fault=fault))
