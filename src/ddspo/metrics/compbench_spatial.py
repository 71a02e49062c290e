"""T2I-CompBench's score of two objects and where they lie to each other, over any detector."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from annotated_types import Interval
from typing_extensions import Doc

from ddspo.detectors.base import Box, Detection
from ddspo.errors import quoted
from ddspo.metrics._detecting import Detecting
from ddspo.metrics.base import Judge, Score

NEAR = ("on side of", "next to", "near")
BESIDE = {
    "on the left of": (-1, 0),
    "on the right of": (1, 0),
    "on the bottom of": (0, 1),
    "on the top of": (0, -1),
}
"""Which way the first object lies from the second, right and down."""
RELATIONS = (*NEAR, *BESIDE)
PERSONS = ("girl", "boy", "man", "woman")
SHORT, LONG = 479, 480
"""Sides that images have where distances are measured: the short one that long, unless the long one would exceed."""
CLOSE = 150.0
"""Of these pixels, a distance that is near."""
APART = 0.1
"""Intersection over union up to which two objects do not cover each other."""


class Said(NamedTuple):
    """What a prompt says: one thing, where it is, and another."""

    first: str
    relation: str
    second: str


@dataclass(frozen=True)
class CompBenchSpatial(Detecting):
    """s = (p1 + p2) / 4 + q / 2, and 0 where that is below one half: confidences of both objects, and how they lie.

    p1 and p2 are those of the most confident finds of the two nouns; where one is lacking, s = 0. With d the way from
    one centre to the other, q = 1 for `next to`, `near`, `on side of` if |dx| or |dy| is below 150 pixels of an image
    of 480, else 150 / max(|dx|, |dy|). For `on the left of` and so on q = 0 unless the object lies that way, further
    along that axis than across; then q = 1 if both overlap by less than .1, else .1 / IoU.

    It differs from the published figure in the detector: that is UniDet with a ResNeSt-200 on images of 480 pixels and
    with its own 722 names; here it is any that knows the nouns, and its confidences enter the score. Compare models
    with it, not with published tables. The nouns are what stands around the relation, without article, where the
    official code takes spaCy's first and last noun: on the benchmark's own prompts both are one word, the same.

    Source: Huang et al. 2023, arXiv 2307.06350; `UniDet_eval/2D_spatial_eval.py` of their repository.
    """

    title = "T2I-CompBench spatial"

    threshold: Annotated[float, Interval(ge=0, le=1), Doc("an object's confidence is above it")] = 0.5

    def missing(self, row: Mapping[str, Any]) -> str | None:
        """A prompt of two things and a relation, which the detector knows."""
        found = said(str(row["prompt"]))
        if found is None:
            return (
                f"{quoted(row['prompt'], 80)} does not say of two things that one is {', '.join(RELATIONS)} the other"
            )
        known = self.detector.classes
        for noun in (found.first, found.second):
            if known is not None and noun not in known:
                return f"{quoted(noun, 40)} is none that the detector knows: {', '.join(known):.200}"
        return None

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Judge]:
        """Detect, then measure."""
        with self.detector.open(device) as read:

            def judge(images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
                every = [said(str(row["prompt"])) or Said("", "", "") for row in rows]
                found = read(images, [{each.first, each.second} - {""} for each in every])
                return [self._score(*each) for each in zip(images, found, every, strict=True)]

            yield judge

    def _score(self, image: np.ndarray, found: Sequence[Detection], what: Said) -> Score:
        first, second = (self._best(found, noun) for noun in (what.first, what.second))
        if first is None or second is None:
            lacking = [noun for noun, best in ((what.first, first), (what.second, second)) if best is None]
            return Score(0.0, f"no {' and no '.join(lacking)}")
        place = position(what.relation, first.box, second.box, image.shape[:2])
        value = (first.confidence + second.confidence) / 4 + place / 2
        note = "" if place == 1 else f"{what.first} {what.relation} {what.second}: {place:.2f}"
        return Score(value if value >= 0.5 else 0.0, note)

    def _best(self, found: Sequence[Detection], noun: str) -> Detection | None:
        of_it = [each for each in found if each.name == noun and each.confidence > self.threshold]
        return max(of_it, key=lambda each: each.confidence, default=None)


def said(prompt: str) -> Said | None:
    """What a prompt says, or None: the first of `RELATIONS` that occurs, and the words around it."""
    text = " ".join(prompt.lower().split()).rstrip(".")
    for relation in RELATIONS:
        before, found, after = text.partition(f" {relation} ")
        first, second = (re.sub(r"^(an?|the) ", "", each) for each in (before, after))
        if found and first and second:
            return Said(*(_name(first), relation, _name(second)))
    return None


def _name(noun: str) -> str:
    return "person" if noun in PERSONS else noun


def position(relation: str, box: Box, other: Box, size: tuple[int, ...]) -> float:
    """How well two boxes in an image of some height and width lie as a relation says, 0 to 1."""
    a, b = np.reshape(box, (2, 2)), np.reshape(other, (2, 2))
    x, y = a.mean(axis=0) - b.mean(axis=0)
    if relation in NEAR:
        scale = min(SHORT / min(size), LONG / max(size))
        distances = abs(x) * scale, abs(y) * scale
        return 1.0 if min(distances) < CLOSE else CLOSE / max(distances)
    right, down = BESIDE[relation]
    along, across = right * x + down * y, down * x + right * y
    if along <= abs(across):
        return 0.0
    covered = intersection_over_union(a, b)
    return 1.0 if covered < APART else APART / covered


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boxes [[left, top], [right, bottom]]."""
    shared = float(np.prod(np.maximum(np.minimum(a[1], b[1]) - np.maximum(a[0], b[0]), 0)))
    areas = float(np.prod(a[1] - a[0]) + np.prod(b[1] - b[0]))
    return shared / (areas - shared) if shared else 0.0
