"""What a prompt says of which things: noun phrases with their counts and attributes, and relations between them.

Rules over a part-of-speech tagger with its own lexicon (TextBlob's pattern tagger) and the lists of `_lexicon.yaml`:
no model, no download.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

from ddspo.degradations import _lexicon
from ddspo.degradations._lexicon import MULTIWORD, lexicon
from ddspo.tagger import tagger

T = TypeVar("T")

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_TOKEN = re.compile(rf"(\s*)({WORD.pattern}|\S)")
_DETERMINERS = frozenset(("a", "an", "the", "this", "that", "these", "those", "some", "another", "each", "every")) | {
    "his",
    "her",
    "its",
    "their",
    "my",
    "your",
    "our",
}
_JOINS = ("and", ",", "or")
_MODIFIERS = ("attribute", "adjective", "number")
_CLAUSE = ("VB", "RB", "MD")
_BE = frozenset(["is", "are", "was", "were", "looks", "look"])
_NEED_BOTH = frozenset(("in", "on", "over", "inside", "outside", "near", "under"))
"""Relations whose words have many other uses: they count only between two things."""


class Token(NamedTuple):
    """A word or sign, its part of speech (Penn Treebank), and the white space before it."""

    word: str
    tag: str
    gap: str

    @property
    def lower(self) -> str:
        """For comparisons."""
        return self.word.lower()


class Attribute(NamedTuple):
    """What a thing is said to be like: tokens [start, end) of a phrase."""

    skill: str
    start: int
    end: int


class Phrase(NamedTuple):
    """A noun phrase, tokens [start, end); its nouns are the last of them, from `head` on."""

    start: int
    head: int
    end: int
    number: int | None
    attributes: tuple[Attribute, ...]


class Link(NamedTuple):
    """A relation, tokens [start, end), and the phrases that it links."""

    start: int
    end: int
    relation: _lexicon.Relation
    left: Phrase | None
    right: Phrase


@dataclass(frozen=True)
class Reading:
    """A prompt, read."""

    tokens: Sequence[Token]

    @classmethod
    def of(cls, prompt: str) -> "Reading":
        """Read a prompt."""
        found = _TOKEN.findall(prompt)
        # Other signs mean something to the tagger's own tokens.
        plain = [word if word.isascii() and (word[0].isalnum() or word in ".,;:!?") else "x" for _, word in found]
        text = " ".join(plain)
        tags = tagger()(text.lower() if prompt.isupper() else text, tokenize=False) if plain else []
        assert len(tags) == len(found), "one tag a word"
        return cls([Token(word, tag, gap) for (gap, word), (_, tag) in zip(found, tags, strict=True)])

    @cached_property
    def words(self) -> list[str]:
        """All in lower case."""
        return [token.lower for token in self.tokens]

    @cached_property
    def phrases(self) -> list[Phrase]:
        """All noun phrases, from left to right: determiner, modifiers, nouns."""
        found, start = [], 0
        kinds = [*self._kinds, ""]
        while start < len(self.tokens):
            head = start
            while kinds[head] in (*_MODIFIERS, "join"):
                head += 1
            end = head
            while kinds[end] == "noun":
                end += 1
            if end > head:
                found.append(self._phrase(start, head, end))
            start = max(end, head, start + 1)
        return found

    @cached_property
    def media(self) -> list[Phrase]:
        """The kinds of pictures that show something: 'a photo of'."""
        after = {phrase: self.word(phrase.end) for phrase in self.phrases}
        known = lexicon().media
        return [phrase for phrase in self.phrases if self.noun(phrase) in known and after[phrase] in ("of", "with")]

    @cached_property
    def objects(self) -> list[Phrase]:
        """The phrases that stand for things."""
        abstract = lexicon().abstract
        shown = [phrase for phrase in self.phrases if phrase not in self.media]
        return [phrase for phrase in shown if self.thing(phrase) or self.noun(phrase) not in abstract]

    @cached_property
    def links(self) -> list[Link]:
        """The relations of which at least what comes after them is a thing."""
        found = [self._link(start, end, relation) for start, (end, relation) in self._relations.items()]
        return [link for link in found if link]

    @cached_property
    def predicates(self) -> list[Attribute]:
        """What is said of a thing by a verb: 'is red'."""
        known = lexicon().attributes
        places = [i for i, word in enumerate(self.words) if word in known and self.word(i - 1) in _BE]
        return [Attribute(known[self.words[i]], i, i + 1) for i in places if not self._kinds[i]]

    @cached_property
    def names(self) -> frozenset[str]:
        """Its words and the known things in it, in the singular."""
        things = (self.thing(phrase) for phrase in self.phrases)
        words = (lexicon().forms.get(word, word) for word in self.words)
        return frozenset([*words, *(thing for thing in things if thing)])

    def noun(self, phrase: Phrase) -> str:
        """The last word of a phrase, in the singular."""
        word = self.words[phrase.end - 1]
        return _lexicon.singular(word) if self.is_plural(phrase) else word

    def is_plural(self, phrase: Phrase) -> bool:
        """Whether a phrase names several things."""
        if self.words[phrase.start] in ("a", "an"):
            return False
        word = self.words[phrase.end - 1]
        counted = phrase.number is not None and self.words[phrase.number] not in ("one", "1")
        known = lexicon().forms.get(word, word) != word
        return counted or known or self.tokens[phrase.end - 1].tag in ("NNS", "NNPS") or word in lexicon().plural_only

    def thing(self, phrase: Phrase) -> str | None:
        """The known thing that a phrase ends with, in the singular; a name such as Times Square is none."""
        return self._things[phrase]

    @cached_property
    def _things(self) -> dict[Phrase, str | None]:
        return {phrase: self._thing(phrase) for phrase in self.phrases}

    def _thing(self, phrase: Phrase) -> str | None:
        if self.tokens[phrase.end - 1].tag == "NNP" and phrase.end > 1:
            return None
        ends = range(max(phrase.head, phrase.end - MULTIWORD), phrase.end)
        names = (" ".join(self.words[start : phrase.end]) for start in ends)
        return next((lexicon().forms[name] for name in names if name in lexicon().forms), None)

    def joins(self, index: int) -> bool:
        """Whether a token ties two attributes of one thing: the 'and' of 'a black and white cat'."""
        return 0 <= index < len(self.tokens) and self._kinds[index] == "join"

    def word(self, index: int) -> str:
        """A token in lower case; nothing before the first and after the last."""
        return self.words[index] if 0 <= index < len(self.words) else ""

    def tag(self, index: int) -> str:
        """The part of speech of a token; nothing before the first and after the last."""
        return self.tokens[index].tag if 0 <= index < len(self.tokens) else ""

    def text(self, start: int, end: int) -> str:
        """Some tokens in lower case, a space between them, as expressions are looked up."""
        return " ".join(self.words[start:end])

    def original(self, start: int, end: int) -> str:
        """Some tokens as they are written, but for a capital at the prompt's beginning."""
        text = "".join(token.gap + token.word for token in self.tokens[start:end]).strip()
        return text if start else text[:1].lower() + text[1:]

    @cached_property
    def _relations(self) -> dict[int, tuple[int, _lexicon.Relation]]:
        return dict(self._expressions(lexicon().relations))

    @cached_property
    def _kinds(self) -> list[str]:
        """What each token is in a noun phrase: noun, attribute, adjective, number, join, or nothing."""
        kinds = [""] * (len(self.tokens) + 2)
        for start, (end, _) in self._expressions(lexicon().forms):
            if end - start > 1 or self._names_a_thing(start):
                kinds[start:end] = ["thing"] * (end - start)
        for start, (end, _) in self._relations.items():
            kinds[start:end] = ["relation"] * (end - start)
        for index in reversed(range(len(self.tokens))):
            kinds[index] = self._kind(index, kinds)
        return kinds[:-2]

    def _kind(self, index: int, kinds: Sequence[str]) -> str:
        token, word = self.tokens[index], self.words[index]
        before_noun = kinds[index + 1] in ("noun", *_MODIFIERS)
        joined = self.word(index + 1) in _JOINS and kinds[index + 1] == "join"
        single = kinds[index] == "thing" and self.word(index) in lexicon().forms
        if kinds[index] == "relation":
            return ""
        named = token.word[0].isupper() and self.tag(index + 1) == "NNP"
        if (
            word in lexicon().attributes
            and not named
            and (before_noun or joined)
            and (kinds[index] != "thing" or single)
        ):
            return "attribute"
        if word in lexicon().degrees and kinds[index + 1] == "attribute":
            return "adjective"
        if kinds[index] == "thing":
            return "noun"
        if word in lexicon().numbers or (word.isdecimal() and len(word) < 3):
            return "number" if before_noun else ""
        if word in _JOINS:
            described = self.word(index - 1) in lexicon().attributes or self.tag(index - 1).startswith("JJ")
            return "join" if described and kinds[index + 1] in ("attribute", "adjective") else ""
        if token.tag.startswith("NN") and word[0].isalpha() and word not in _DETERMINERS:
            return "noun" if not word.endswith(("'s", "’s")) else "adjective" if before_noun else ""
        if token.tag.startswith("JJ") or (token.tag in ("VBN", "VBG") and self._describes(index - 1)):
            return "adjective" if before_noun or joined else ""
        return ""

    def _names_a_thing(self, index: int) -> bool:
        """Whether a known word is a noun here: a bear, not to bear."""
        return self.tokens[index].tag[:2] not in ("VB", "MD", "IN", "TO") or self._describes(index - 1)

    def _describes(self, index: int) -> bool:
        """Whether a noun phrase may go on after a token."""
        word = self.word(index)
        known = word in _DETERMINERS or word in lexicon().attributes or word in lexicon().numbers
        return known or self.tag(index).startswith("JJ")

    def _phrase(self, start: int, head: int, end: int) -> Phrase:
        kinds = self._kinds
        numbers = [index for index in range(start, head) if kinds[index] == "number"]
        attributes = [self._attribute(index) for index in range(start, head) if kinds[index] == "attribute"]
        first = start - 1 if self.word(start - 1) in _DETERMINERS else start
        return Phrase(first, head, end, numbers[0] if numbers else None, tuple(attributes))

    def _attribute(self, index: int) -> Attribute:
        skill = lexicon().attributes[self.words[index]]
        graded = skill == "colour" and self.word(index - 1) in lexicon().degrees
        return Attribute(skill, index - graded, index + 1)

    def _link(self, start: int, end: int, relation: _lexicon.Relation) -> Link | None:
        right = next((phrase for phrase in self.objects if phrase.start == end), None)
        before = [phrase for phrase in self.phrases if phrase.end <= start]
        left = before[-1] if before and before[-1] in self.objects else None
        if left and not all(token.tag.startswith(_CLAUSE) for token in self.tokens[left.end : start]):
            left = None
        if right is None or (left is None and relation.words in _NEED_BOTH):
            return None
        return Link(start, end, relation, left, right)

    def _expressions(self, table: Mapping[str, T]) -> Iterator[tuple[int, tuple[int, T]]]:
        """Where the longest expressions of a table start, where they end, and what they are."""
        start = 0
        while start < len(self.words):
            ends = range(min(start + MULTIWORD, len(self.words)), start, -1)
            end = next((end for end in ends if self.text(start, end) in table), None)
            if end:
                yield start, (end, table[self.text(start, end)])
            start = end or start + 1
