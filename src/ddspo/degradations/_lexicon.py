"""The words that stand for skills, and their inflection."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

MULTIWORD = 5
"""The longest expressions that are looked up, in words."""


class Category(NamedTuple):
    """What things are in general: one of them, several, and an amount of them, if one can say so."""

    one: str
    several: str
    amount: str | None
    common: tuple[str, ...]
    """Things that exclude each other."""


class Relation(NamedTuple):
    """How one thing lies to another; `vague` is what is left without the direction, if there is any."""

    words: str
    opposite: str
    vague: str | None


@dataclass(frozen=True)
class Lexicon:
    """Lists of words, and what follows from them.

    Attributes:
        attributes: The skill of each word that says what a thing is like.
        common: By skill, words that may take another's place.
        degrees: Words that belong to the colour behind them: light, dark.
        opposites: The opposite of each size.
        numbers: one, two, three ...
        relations: By their words.
        media: Kinds of pictures.
        abstract: Nouns that stand for no thing.
        categories: By thing.
        forms: The singular of every known thing, by singular and by plural.
        same: Words of like meaning, by the commonest.
        uncountable: Things without a plural.
        plural_only: Things without a singular.
    """

    attributes: Mapping[str, str]
    common: Mapping[str, tuple[str, ...]]
    degrees: frozenset[str]
    opposites: Mapping[str, str]
    numbers: tuple[str, ...]
    relations: Mapping[str, Relation]
    media: frozenset[str]
    abstract: frozenset[str]
    categories: Mapping[str, Category]
    forms: Mapping[str, str]
    same: Mapping[str, tuple[str, ...]]
    uncountable: frozenset[str]
    plural_only: frozenset[str]

    def is_same(self, word: str, other: str) -> bool:
        """Whether one of two words means the other, or one kind of it."""
        return word == other or other in self.same.get(word, ()) or word in self.same.get(other, ())

    def countability(self, thing: str) -> str:
        """Things of one countability can take each other's place."""
        return "amount" if thing in self.uncountable else "several" if thing in self.plural_only else "one"


@cache
def lexicon() -> Lexicon:
    """The package's own lists."""
    data: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("_lexicon.yaml").read_text(encoding="utf-8"))
    given = data["attributes"]
    pairs = given["size"]["pairs"]
    words = {skill: [*lists.get("common", ()), *lists.get("known", ())] for skill, lists in given.items()}
    words["size"] = [word for pair in pairs for word in pair]
    things = [
        (Category(one, several, amount, tuple(common)), [*common, *known])
        for (one, several, amount), common, known in data["categories"]
    ]
    by_thing = {thing: category for category, mine in reversed(things) for thing in mine}
    kept = frozenset(data["plural_only"])
    return Lexicon(
        attributes={word: skill for skill, listed in words.items() for word in listed},
        common={skill: tuple(lists["common"]) for skill, lists in given.items() if "common" in lists},
        degrees=frozenset(given["colour"]["degrees"]),
        opposites=dict([*((b, a) for a, b in reversed(pairs)), *map(tuple, reversed(pairs))]),
        numbers=tuple(data["numbers"]),
        relations={words: Relation(words, *rest) for words, *rest in data["relations"]},
        media=frozenset(data["media"]),
        abstract=frozenset(data["abstract"]),
        categories=by_thing,
        forms={thing if thing in kept else plural(thing): thing for thing in by_thing} | {t: t for t in by_thing},
        same={word: tuple(others) for word, others in data["same"].items()},
        uncountable=frozenset(data["uncountable"]),
        plural_only=kept,
    )


@lru_cache(10_000)
def plural(noun: str) -> str:
    """Several of what a noun names."""
    return str(_inflect().plural_noun(noun))


@lru_cache(10_000)
def singular(noun: str) -> str:
    """One of what a noun in the plural names."""
    return lexicon().forms.get(noun) or str(_inflect().singular_noun(noun) or noun)


@lru_cache(10_000)
def article(word: str) -> str:
    """'a' or 'an', as the word's sound asks for."""
    return str(_inflect().an(word)).split()[0]


@cache
def _inflect() -> Any:
    import inflect  # takes a second, which only those who use it should pay

    return inflect.engine()
