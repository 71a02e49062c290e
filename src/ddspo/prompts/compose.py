"""Makes compositional prompts: nouns, colours, counts and relations, with the rows that GenEval's rules judge.

What a prompt says (`said`: its nouns, colours, count and relation) belongs to one split, by a hash, whatever the seed;
so the splits share nothing but single words. What a prompt of a published benchmark says is in no split: digests of
all that could be composed of GenEval, T2I-CompBench, PartiPrompts and DrawBench lie beside this file.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Gt, Le, Lt
from typing_extensions import Doc

from ddspo.prompts._vocabulary import COLOURS, NUMBERS, RELATIONS, nouns, plural, said, with_article
from ddspo.randomness import permutation, stable_seed
from ddspo.rows import Row

Split = Literal["alignment", "validation", "evaluation"]
LEADS = ("a photo of ", "a picture of ", "an image of ", "a photograph of ", "")
SPLITS: tuple[Split, ...] = (*("alignment",) * 8, "validation", "evaluation")
"""Of ten things to say, whose each is."""
PUBLISHED = "_published.txt"
_SHUFFLED = 2**20
"""Choices of a tag that are gone through in a random order; of more a few are drawn."""

Choice = tuple[Any, ...]


@dataclass(frozen=True)
class Compose:
    """Prompts that are made, and not read: the same ones for the same options, everywhere."""

    split: Annotated[Split, Doc("which things are said: no two splits share any")] = "alignment"
    count: Annotated[int, Gt(0), Le(100_000), Doc("how many, all different")] = 1000
    seed: Annotated[int, Ge(0), Lt(2**63), Doc("which of the split's")] = 0
    classes: Annotated[
        Literal["coco", "open"], Doc("nouns: the classes of COCO, which any detector knows, or hundreds more")
    ] = "open"

    @property
    def identity(self) -> str:
        """Its options, and a digest of the words and of what is in no split."""
        files = [Path(__file__).parent / name for name in ("_nouns.yaml", PUBLISHED)]
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]
        return f"{self!r}@{digest}"

    def rows(self) -> Iterator[Row]:
        """Rows of `tag`, `include`, `exclude` and `prompt`, the tags in turn; fewer are the first of more."""
        return islice(self._in_turn(), self.count)

    def _in_turn(self) -> Iterator[Row]:
        """One row of every tag in turn, until the last of the tags has no more."""
        left = [self._of(tag) for tag in _tags(self.classes)]
        while left:
            row = next(left[0], None)
            left = [*left[1:], left[0]] if row else left[1:]
            if row:
                yield row

    def _of(self, tag: "_Tag") -> Iterator[Row]:
        """The rows of one tag, each prompt once."""
        seen: set[str] = set()
        for choice in tag.choices(self.seed):
            row = tag.row(choice)
            if row and row["prompt"] not in seen and split_of(row["prompt"]) == self.split:
                seen.add(row["prompt"])
                yield row


def split_of(prompt: str) -> Split | None:
    """Whose a prompt is by what it says; None: it says what a published benchmark says."""
    digest = digest_of_said(prompt)
    return None if digest in published() else SPLITS[int(digest, 16) % len(SPLITS)]


def digest_of_said(prompt: str) -> str:
    """A short digest of what a prompt says."""
    return hashlib.sha256(" ".join(sorted(said(prompt))).encode()).hexdigest()[:12]


@cache
def published() -> frozenset[str]:
    """Digests of what prompts of benchmarks say."""
    lines = (Path(__file__).parent / PUBLISHED).read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line[0] != "#")


class _Tag(NamedTuple):
    """How the prompts of one of GenEval's tags are made.

    Attributes:
        lists: What one of each is chosen from.
        entries: The `include` list of a choice, or None where it makes no sense.
        words: The prompt of an `include` list, without its lead.
    """

    name: str
    lists: tuple[tuple[Any, ...], ...]
    entries: Callable[..., list[Row] | None]
    words: Callable[[list[Row]], str]

    def choices(self, seed: int) -> Iterator[Choice]:
        """All choices in a random order, each with a lead, or where there are very many draws without an end."""
        lists = (*self.lists, LEADS)
        total = math.prod(map(len, lists))
        start = stable_seed(seed, "compose", self.name)
        draws = (stable_seed(start, number) % total for number in count())
        for place in permutation(total, start).tolist() if total <= _SHUFFLED else draws:
            yield tuple(_picked(lists, place))

    def row(self, choice: Choice) -> Row | None:
        """The row of a choice, if it makes sense."""
        *chosen, lead = choice
        include = self.entries(*chosen)
        if include is None:
            return None
        bounds = [{"class": entry["class"], "count": entry["count"] + 1} for entry in include]
        exclude = {"exclude": bounds} if self.name == "counting" else {}
        return {"tag": self.name, "include": include, **exclude, "prompt": f"{lead}{self.words(include)}"}


@cache
def _tags(classes: str) -> tuple[_Tag, ...]:
    known = nouns()
    every = known.coco if classes == "coco" else known.open
    countable = tuple(noun for noun in every if noun not in known.uncountable)
    coloured = tuple(noun for noun in every if noun not in known.uncoloured)
    pairs = (coloured, COLOURS, coloured, COLOURS)
    return (
        _Tag("single_object", (every,), lambda noun: [_entry(noun)], _listed),
        _Tag("two_object", (every, every), lambda a, b: _two(_entry(a), _entry(b)), _listed),
        _Tag("counting", (countable, tuple(NUMBERS)), lambda noun, number: [_entry(noun, count=number)], _counted),
        _Tag("colors", (coloured, COLOURS), lambda noun, colour: [_entry(noun, color=colour)], _listed),
        _Tag("position", (every, RELATIONS, every), _related, _placed),
        _Tag("color_attr", pairs, _two_coloured, _listed),
    )


def _picked(lists: tuple[tuple[Any, ...], ...], place: int) -> Iterator[Any]:
    """The choice of a number below the product of the lists' lengths."""
    for each in lists:
        place, index = divmod(place, len(each))
        yield each[index]


def _entry(noun: str, *, count: int = 1, **rest: Any) -> Row:
    return {"class": noun, "count": count} | rest


def _two(one: Row, other: Row) -> list[Row] | None:
    """Two things, of which neither is a kind of the other by its name, as a bear and a teddy bear are."""
    shared = set(one["class"].split()) & set(other["class"].split())
    return None if shared else [one, other]


def _related(thing: str, relation: str, target: str) -> list[Row] | None:
    return _two(_entry(target), _entry(thing, position=[relation, 0]))


def _two_coloured(one: str, its: str, other: str, others: str) -> list[Row] | None:
    return None if its == others else _two(_entry(one, color=its), _entry(other, color=others))


def _listed(include: list[Row]) -> str:
    names = (" ".join(filter(None, (entry.get("color"), entry["class"]))) for entry in include)
    return " and ".join(map(with_article, names))


def _counted(include: list[Row]) -> str:
    (entry,) = include
    return f"{NUMBERS[entry['count']]} {plural(entry['class'])}"


def _placed(include: list[Row]) -> str:
    target, thing = include
    return f"{with_article(thing['class'])} {thing['position'][0]} {with_article(target['class'])}"
