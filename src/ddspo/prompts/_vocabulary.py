"""The words that composed prompts are made of, their inflection, and what a text says in them."""

import re
from collections.abc import Collection
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
RELATIONS = ("left of", "right of", "above", "below")
_AXES = {"left": "beside", "right": "beside", "above": "over", "below": "over", "top": "over", "bottom": "over"}
"""Relations by their axis: 'A left of B' says what 'B right of A' says."""
_LEADS = ("photo", "picture", "image", "photograph")
_JOINTS = ("a", "an", "the", "of", "and", "to", "on", "in", "with", "is", "are", "there", "side")
_SAYS_NOTHING = frozenset((*_LEADS, *_JOINTS))
_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")


class Nouns(NamedTuple):
    """Nouns in the singular: the names of COCO's classes, all of them, and those without colours or a plural."""

    coco: tuple[str, ...]
    open: tuple[str, ...]
    uncoloured: frozenset[str]
    uncountable: frozenset[str]


@cache
def nouns() -> Nouns:
    """All nouns, in the order of the file."""
    text = (Path(__file__).parent / "_nouns.yaml").read_text(encoding="utf-8")
    lists = {name: tuple(map(str.strip, value.split(","))) for name, value in yaml.safe_load(text).items()}
    unlike = [frozenset(lists.pop(name)) for name in ("uncoloured", "uncountable")]
    return Nouns(lists["coco"], tuple(noun for each in lists.values() for noun in each), *unlike)


def said(text: str) -> frozenset[str]:
    """What a text says: its words in the singular, relations by their axis, without leads and joints.

    Who has which colour, and who is left and who is right, are not told apart: of two such texts the one would give
    the other away.
    """
    words = _WORD.findall(text.casefold())
    singular = _singulars()
    return frozenset(_AXES.get(word, singular.get(word, word)) for word in words if word not in _SAYS_NOTHING)


@cache
def known() -> Collection[str]:
    """All that `said` can give for a composed prompt."""
    given = " ".join((*nouns().open, *COLOURS, *NUMBERS.values(), *RELATIONS))
    return said(given)


@lru_cache(10_000)
def with_article(phrase: str) -> str:
    """A phrase after 'a' or 'an', as its sound asks for."""
    return str(_inflect().an(phrase))


@lru_cache(10_000)
def plural(noun: str) -> str:
    """Several of what a noun names."""
    return str(_inflect().plural_noun(noun))


@cache
def _singulars() -> dict[str, str]:
    """{last word of a plural, also of one like 'four knifes': that of its noun}, but for nouns' own words."""
    last = {noun: noun.casefold().split()[-1] for noun in nouns().open}
    pairs = {many.casefold().split()[-1]: one for noun, one in last.items() for many in (plural(noun), f"{one}s")}
    own = {word for noun in nouns().open for word in noun.casefold().split()}
    return {many: one for many, one in pairs.items() if many not in own}


@cache
def _inflect() -> Any:
    import inflect  # takes a second, which only those who use it should pay

    return inflect.engine()
