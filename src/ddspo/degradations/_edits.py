"""Changes of a prompt that break one skill each: what they replace, and what the prompt says then."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

from ddspo.degradations._lexicon import article, lexicon, plural, singular
from ddspo.degradations._reading import Link, Phrase, Reading

SKILLS = ("object", "count", "colour", "material", "texture", "shape", "size", "relation")
_FINITE = ("VBZ", "VBP")
_BE = frozenset(("is", "are", "was", "were", "has", "have"))
_ENDS = frozenset(("", ".", ",", ";", "!", "?"))
_ARTICLES = frozenset(("a", "an", "the"))
NEAREST_NUMBERS = 3
"""A count changes by at most so many: the nearer, the harder to tell."""


class Change(NamedTuple):
    """Tokens [start, end) give way to other words, or to none."""

    start: int
    end: int
    words: str


class Edit(NamedTuple):
    """A prompt with one skill broken, and how: 'remove', 'generalise' or 'swap'."""

    operation: str
    skill: str
    text: str


def edits(prompt: str, rng: np.random.Generator, vocabulary: Container[str] | None = None) -> list[Edit]:
    """Every way to break one skill of a prompt, no two with the same text; substitutes are drawn, one for each word.

    Args:
        prompt: What is broken.
        rng: Draws substitutes.
        vocabulary: The only words that may be put in, in lower case; None: any.
    """
    reading = Reading.of(prompt)
    whole = apply(reading, []).lower()
    found: dict[str, Edit] = {}
    for operation, skill, changes in _Changes(reading, rng, vocabulary).all():
        text = apply(reading, changes)
        if text and text.lower() != whole:
            found.setdefault(text, Edit(operation, skill, text))
    return list(found.values())


def apply(reading: Reading, changes: Sequence[Change]) -> str:
    """The prompt after some changes: a and an follow the next word, and a capital stays at the beginning."""
    pieces: list[tuple[str, str]] = []
    articles: list[int] = []
    index, by_start = 0, {change.start: change for change in changes}
    while index < len(reading.tokens):
        token, change = reading.tokens[index], by_start.get(index)
        if change:
            pieces += _cased(reading, change)
            index = change.end
            continue
        if token.lower in ("a", "an") and index + 1 in by_start:
            articles.append(len(pieces))
        pieces.append((token.gap, token.word))
        index += 1
    for place in articles:
        if place + 1 < len(pieces):
            (gap, old), following = pieces[place], pieces[place + 1][1]
            new = article(following.lower())
            loud = len(following) > 1 and following.isupper()
            pieces[place] = (gap, new.upper() if loud else new.capitalize() if old[0].isupper() else new)
    text = "".join(gap + word for gap, word in pieces).strip()
    return text[:1].upper() + text[1:] if reading.tokens and reading.tokens[0].word[:1].isupper() else text


def _cased(reading: Reading, change: Change) -> list[tuple[str, str]]:
    """New words with the white space and the case of the old ones."""
    old = reading.tokens[change.start]
    words = change.words.split()
    if len(old.word) > 1 and old.word.isupper():
        words = [word.upper() for word in words]
    elif old.word[0].isupper() and change.start:
        words = [word[:1].upper() + word[1:] for word in words]
    return [(" " if number else old.gap, word) for number, word in enumerate(words)]


_Found = Iterator[tuple[str, str, list[Change]]]


@dataclass(frozen=True)
class _Changes:
    """All changes of a prompt: operation, skill, and what gives way to what."""

    reading: Reading
    rng: np.random.Generator
    vocabulary: Container[str] | None

    def all(self) -> _Found:
        """Those that put in known words only."""
        for operation, skill, changes in self._unchecked():
            if all(self._knows(change.words) for change in changes):
                yield operation, skill, changes

    def _unchecked(self) -> _Found:
        for link in self.reading.links:
            yield from self._of_relation(link)
        for phrase in self.reading.objects:
            if phrase.number is not None:
                yield from self._of_count(phrase, phrase.number)
            yield from self._of_object(phrase)
        yield from self._of_attributes()
        yield from self._of_lists()
        yield from self._exchanges()

    def _knows(self, text: str) -> bool:
        words = text.lower().split()
        return self.vocabulary is None or all(w in self.vocabulary or w in self.reading.words for w in words)

    def _says(self, word: str) -> bool:
        """Whether the prompt has a word, or one of like meaning."""
        return any(lexicon().is_same(word, each) for each in self.reading.names)

    def _draw(self, options: Sequence[str]) -> str | None:
        known = [option for option in options if self._knows(option)]
        return known[self.rng.integers(len(known))] if known else None

    def _of_relation(self, link: Link) -> _Found:
        """Its opposite; no direction; or the two things side by side."""
        yield "swap", "relation", [Change(link.start, link.end, link.relation.opposite)]
        if link.relation.vague:
            yield "generalise", "relation", [Change(link.start, link.end, link.relation.vague)]
        if link.left:
            clause = link.start > link.left.end
            if not clause or self.reading.word(link.right.end) in _ENDS:
                yield "remove", "relation", [Change(link.left.end, link.end, "and")]

    def _of_count(self, phrase: Phrase, place: int) -> _Found:
        """Another number, or none: 'two dogs' becomes 'three dogs', 'some dogs', 'dogs'."""
        word, numbers = self.reading.words[place], lexicon().numbers
        value = int(word) if word.isdecimal() else numbers.index(word) + 1
        if value > 1:
            yield "remove", "count", [Change(place, place + 1, "")]
            if phrase.start == place:
                yield "generalise", "count", [Change(place, place + 1, "some")]
        if value == 1 and self._has_verb(phrase.end):
            return
        near = range(max(2, value - NEAREST_NUMBERS), min(value + NEAREST_NUMBERS, len(numbers)) + 1)
        other = self._draw([str(n) if word.isdecimal() else numbers[n - 1] for n in near if n != value])
        if other:
            nouns = [Change(phrase.head, phrase.end, self._nouns(phrase, many=True))] if value == 1 else []
            yield "swap", "count", [Change(place, place + 1, other), *nouns]

    def _of_object(self, phrase: Phrase) -> _Found:
        """What it is in general; another of its kind; or the bare picture: 'a photo of a cat' becomes 'a photo'."""
        thing, many = self.reading.thing(phrase), self.reading.is_plural(phrase)
        if thing:
            category, countable = lexicon().categories[thing], lexicon().countability(thing)
            amount = countable == "amount" or phrase.start == phrase.head
            general = category.several if many else (category.amount if amount else None) or category.one
            yield "generalise", "object", [Change(phrase.head, phrase.end, general)]
            alike = [t for t in category.common if lexicon().countability(t) == countable and not self._says(t)]
            other = self._draw([plural(t) if many and countable == "one" else t for t in alike])
            if other:
                yield "swap", "object", [Change(phrase.head, phrase.end, other)]
        medium = next((medium for medium in self.reading.media if medium.end + 1 == phrase.start), None)
        bare = phrase.number is None and not phrase.attributes
        if medium and bare and self.reading.word(phrase.end) in _ENDS:
            yield "remove", "object", [Change(medium.end, phrase.end, "")]

    def _of_attributes(self) -> _Found:
        """None; a size's opposite; the attribute of another thing; or, where there is none, another word."""
        owned = [(phrase, attribute) for phrase in self.reading.objects for attribute in phrase.attributes]
        for _, a in owned:
            start = a.start - (self.reading.joins(a.start - 1) and not self.reading.joins(a.end))
            yield "remove", a.skill, [Change(start, a.end + self.reading.joins(a.end), "")]
        every = [*owned, *((None, attribute) for attribute in self.reading.predicates)]
        exchanged = set()
        for (one, a), (other, b) in combinations(every, 2):
            words = self.reading.text(a.start, a.end), self.reading.text(b.start, b.end)
            if a.skill == b.skill != "size" and not lexicon().is_same(*words) and (one is None or one != other):
                exchanged |= {a, b}
                yield "swap", a.skill, [Change(a.start, a.end, words[1]), Change(b.start, b.end, words[0])]
        for _, a in every:
            if a.skill == "size":
                new: str | None = lexicon().opposites[self.reading.text(a.start, a.end)]
            elif a not in exchanged:
                new = self._draw([word for word in lexicon().common[a.skill] if not self._says(word)])
            else:
                new = None
            if new:
                yield "swap", a.skill, [Change(a.start, a.end, new)]

    def _of_lists(self) -> _Found:
        """One of 'a cat and a dog' goes."""
        for one, other in pairwise(self.reading.objects):
            between = self.reading.text(one.end, other.start)
            if between not in ("and", ",", ", and", "with") or self._has_verb(other.end):
                continue
            yield "remove", "object", [Change(one.end, other.end, "")]
            if between == "and" and self.reading.word(one.start - 1) in ("", "of"):
                yield "remove", "object", [Change(one.start, other.start, "")]

    def _exchanges(self) -> _Found:
        """Two things change places where that changes what is meant: across a direction, or with unlike modifiers."""
        reading = self.reading
        for link in reading.links:
            one, other = link.left, link.right
            if one and link.relation.vague and not self._is_tied(one, other) and self._agree(one, other):
                new = [reading.original(phrase.start, phrase.end) for phrase in (other, one)]
                yield "swap", "relation", [Change(one.start, one.end, new[0]), Change(other.start, other.end, new[1])]
        for one, other in pairwise(reading.objects):
            alike = self._modifiers(one) == self._modifiers(other)
            if not alike and self._countable(one) and self._countable(other) and not self._is_tied(one, other):
                first = self._nouns(other, many=reading.is_plural(one))
                second = self._nouns(one, many=reading.is_plural(other))
                yield "swap", "object", [Change(one.head, one.end, first), Change(other.head, other.end, second)]

    def _is_tied(self, *phrases: Phrase) -> bool:
        """Whether one of some phrases is part of a larger one: a bowl of fruit, or what has no determiner."""
        reading = self.reading
        shown = {medium.end for medium in reading.media} | {link.end - 1 for link in reading.links}
        after = any(reading.word(p.start - 1) == "of" and p.start - 1 not in shown for p in phrases)
        bare = any(0 < p.start == p.head and not reading.is_plural(p) for p in phrases)
        return after or bare or any(reading.word(p.end) == "of" for p in phrases)

    def _agree(self, one: Phrase, other: Phrase) -> bool:
        return self.reading.is_plural(one) == self.reading.is_plural(other)

    def _countable(self, phrase: Phrase) -> bool:
        """Whether a phrase names one thing with its determiner, or several."""
        counts = lexicon().countability(self.reading.thing(phrase) or "") == "one"
        return counts and (self.reading.is_plural(phrase) or phrase.start < phrase.head)

    def _modifiers(self, phrase: Phrase) -> list[str]:
        """What is said of a thing: its count, attributes and other adjectives."""
        return [word for word in self.reading.words[phrase.start : phrase.head] if word not in _ARTICLES]

    def _nouns(self, phrase: Phrase, *, many: bool) -> str:
        """The nouns of a phrase, of one thing or of several."""
        if self.reading.is_plural(phrase) == many:
            return self.reading.original(phrase.head, phrase.end)
        *before, last = self.reading.words[phrase.head : phrase.end]
        return " ".join([*before, plural(last) if many else singular(last)])

    def _has_verb(self, index: int) -> bool:
        """Whether a verb that agrees with the phrase before comes next."""
        return self.reading.tag(index) in _FINITE or self.reading.word(index) in _BE
