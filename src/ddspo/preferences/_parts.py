"""Numbers what may become a pair, in the order of the dataset, and cuts it into shards and parts of shards."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ddspo import randomness
from ddspo.preferences._rows import LeftOut
from ddspo.preferences.base import Preference
from ddspo.rows import Row

DUPLICATE, ALIKE, UNDEGRADED = "duplicate", "one image on both sides", "caption that cannot be made poorer"


class Candidate(NamedTuple):
    """What may become a pair, and a number that tells it from any other."""

    key: int
    preference: Preference


class Part(NamedTuple):
    """Some candidates, and what was left out up to the last of them.

    Attributes:
        shard: The shard that it is part of.
        number: Which part.
        start: The number of its first candidate in the dataset.
        closes: Whether it is the shard's last.
    """

    shard: int
    number: int
    start: int
    candidates: Sequence[Candidate]
    left_out: Sequence[LeftOut]
    closes: bool

    @property
    def rows(self) -> int:
        """How much of the dataset it is."""
        return len(self.candidates) + len(self.left_out)

    @property
    def digest(self) -> str:
        """What it was made of."""
        keys = [self.start, *(each.key for each in self.candidates)]
        return hashlib.sha256(repr(keys).encode()).hexdigest()[:16]


def parts(found: Iterator[Preference | LeftOut], limit: int | None, size: int, per_shard: int) -> Iterator[Part]:
    """All parts of a dataset, in order: at least one.

    Args:
        found: The dataset.
        limit: Candidates at most; None: all.
        size: Candidates of a part.
        per_shard: Parts of a shard.
    """
    waiting: Part | None = None
    start = 0
    for number, (candidates, left_out) in enumerate(_chunks(unique(found), limit, size)):
        shard, place = divmod(number, per_shard)
        if waiting:
            yield waiting._replace(closes=place == 0)
        waiting = Part(shard, place, start, candidates, left_out, True)
        start += len(candidates)
    assert waiting
    yield waiting


def with_degraded(
    found: Iterable[Preference | LeftOut], variants: Mapping[str, Sequence[Row]]
) -> Iterator[Preference | LeftOut]:
    """Captioned images, each with one of the variants {text, kind} of its caption, drawn by the image."""
    for each in found:
        if isinstance(each, LeftOut):
            yield each
        elif each.prompt not in variants:
            yield LeftOut(each.place, UNDEGRADED, each.prompt)
        else:
            every = variants[each.prompt]
            chosen = every[randomness.stable_seed(each.prompt, each.sides.win.key, "variant") % len(every)]
            yield replace(each, degraded=chosen["text"], kind=chosen["kind"])


def unique(found: Iterator[Preference | LeftOut]) -> Iterator[Candidate | LeftOut]:
    """Leave out what was there before, and what is no choice between two images; keeps a number of each candidate."""
    seen: set[int] = set()
    for each in found:
        if isinstance(each, LeftOut):
            yield each
            continue
        win, lose = (side.key for side in each.sides)
        key = randomness.stable_seed(each.prompt, win, lose, *([] if each.wanted is None else [int(each.wanted)]))
        if win == lose and each.sides.win is not each.sides.lose:
            yield LeftOut(each.place, ALIKE, "")
        elif key in seen:
            yield LeftOut(each.place, DUPLICATE, "of an earlier row")
        else:
            seen.add(key)
            yield Candidate(key, each)


def _chunks(
    found: Iterator[Candidate | LeftOut], limit: int | None, size: int
) -> Iterator[tuple[list[Candidate], list[LeftOut]]]:
    candidates: list[Candidate] = []
    left_out: list[LeftOut] = []
    done = 0
    while limit is None or done < limit:
        each = next(found, None)
        if each is None:
            break
        if isinstance(each, LeftOut):
            left_out.append(each)
            continue
        candidates.append(each)
        done += 1
        if len(candidates) == size:
            yield candidates, left_out
            candidates, left_out = [], []
    if candidates or left_out or not done:
        yield candidates, left_out
