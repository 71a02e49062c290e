"""GenEval's scoring rules over any detector (Ghosh et al. 2023, arXiv 2310.11513).

An image is right when every `include` entry is found (count, colour, relation) and no `exclude` entry is; a tag's
score is the mean over its images, and the overall score is the mean of the tag scores, not of the images.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from annotated_types import Gt, Interval
from typing_extensions import Doc

from ddspo.detectors.base import Box, Detection, Reader
from ddspo.errors import quoted
from ddspo.metrics._detecting import Detecting
from ddspo.metrics._rows import RELATIONS, fault_of
from ddspo.metrics.base import Judge, Score

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

Colours = Callable[[Sequence[Detection]], list[str | None]]
"""The colours of some objects of an image."""


class Verdict(NamedTuple):
    """Whether an image is what its prompt says, and in words what is wrong."""

    correct: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class GenEval(Detecting):
    """1 for an image that is what its prompt says, 0 for any other, by GenEval's rules over a detector's findings."""

    title = "GenEval"

    threshold: Annotated[float, Interval(ge=0, le=1), Doc("an object's confidence is above it")] = 0.3
    counting_threshold: Annotated[
        float, Interval(ge=0, le=1), Doc("the same for the tag `counting`, where doubles cost more")
    ] = 0.9
    max_objects: Annotated[int, Gt(0), Doc("objects kept of each class, the most confident first")] = 16
    margin: Annotated[float, Interval(ge=0, le=1), Doc("share of both boxes' sides that a relation must exceed")] = 0.1
    max_overlap: Annotated[
        float,
        Interval(gt=0, le=1),
        Doc("boxes of a class that overlap by that much or more are one object, the most confident; 1: none are"),
    ] = 1.0

    def missing(self, row: Mapping[str, Any]) -> str | None:
        """A tag of GenEval's, and entries that the detector can find, count, and tell the colours of."""
        if row.get("tag") not in TAGS:
            return f"tag {quoted(row.get('tag'), 40)} is none of {', '.join(TAGS)}"
        return fault_of(row, self.detector, self.max_objects)

    def group(self, row: Mapping[str, Any]) -> str:
        """Its tag: the score is the mean of the tags' means."""
        return str(row["tag"])

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Judge]:
        """Detect, then judge."""
        with self.detector.open(device) as read:

            def judge(images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
                every = read(images, [names_of(row) for row in rows])
                return [self._score(*each, read) for each in zip(images, every, rows, strict=True)]

            yield judge

    def _score(self, image: np.ndarray, found: Sequence[Detection], row: Mapping[str, Any], read: Reader) -> Score:
        verdict = self.judge(found, row, lambda objects: read.colours(image, objects))
        return Score(float(verdict.correct), "; ".join(verdict.reasons))

    def judge(self, detections: Sequence[Detection], item: Mapping[str, Any], colours: Colours) -> Verdict:
        """Compare what was found with one metadata row (tag, include, exclude?)."""
        found = defaultdict(list, self.objects(detections, item["tag"]))
        reasons: list[str] = []
        matched: list[list[Detection] | None] = []
        for entry in item["include"]:
            fault = self._fault(entry, found, matched, colours)
            reasons += [fault] if fault else []
            matched.append(None if fault else found[entry["class"]][: entry["count"]])
        for entry in item.get("exclude", ()):
            if len(found[entry["class"]]) >= entry["count"]:
                reasons.append(f"{len(found[entry['class']])} x {entry['class']}, fewer than {entry['count']} wanted")
        return Verdict(not reasons, tuple(reasons))

    def objects(self, detections: Sequence[Detection], tag: str) -> dict[str, list[Detection]]:
        """Detections above the threshold by class, at most `max_objects` of each, most confident first."""
        least = self.counting_threshold if tag == "counting" else self.threshold
        found: dict[str, list[Detection]] = defaultdict(list)
        for detection in sorted(detections, key=lambda d: -d.confidence):
            if detection.confidence > least and len(found[detection.name]) < self.max_objects:
                found[detection.name].append(detection)
        return {name: self._apart(objects) for name, objects in found.items()}

    def _apart(self, objects: Sequence[Detection]) -> list[Detection]:
        """Without those that overlap a more confident one too much."""
        kept: list[Detection] = []
        for each in objects:
            if self.max_overlap == 1 or all(overlap(each.box, other.box) < self.max_overlap for other in kept):
                kept.append(each)
        return kept

    def _fault(
        self,
        entry: Mapping[str, Any],
        found: Mapping[str, list[Detection]],
        matched: Sequence[list[Detection] | None],
        colours: Colours,
    ) -> str | None:
        """What is wrong with one `include` entry, or None."""
        name, count = entry["class"], entry["count"]
        objects = found[name][:count]
        if len(objects) < count:
            return f"{len(objects)} x {name}, {count} wanted"
        seen = colours(objects) if "color" in entry else []
        if "color" in entry and seen.count(entry["color"]) < count:
            return f"{name} is {', '.join(map(str, seen))}, {entry['color']} wanted"
        if "position" in entry:
            relation, index = entry["position"]
            targets = matched[index]
            if targets is None:
                return f"nothing for {name} to be {relation}"
            if not all(relation in relations(a.box, b.box, self.margin) for a in objects for b in targets):
                return f"{name} is not {relation} its target"
        return None


def names_of(row: Mapping[str, Any]) -> frozenset[str]:
    """The classes that a row asks for, or forbids."""
    return frozenset(entry["class"] for key in ("include", "exclude") for entry in row.get(key) or ())


def overlap(box: Box, other: Box) -> float:
    """Intersection over union of two boxes whose right and bottom count as pixels of theirs, as in GenEval."""
    a, b = np.reshape(box, (2, 2)), np.reshape(other, (2, 2))
    areas = [float(np.prod(np.maximum(end - start + 1, 0))) for start, end in (a, b)]
    shared = float(np.prod(np.maximum(np.minimum(a[1], b[1]) - np.maximum(a[0], b[0]) + 1, 0)))
    return shared / (sum(areas) - shared) if shared else 0.0


def relations(box: Box, other: Box, margin: float = 0.1) -> set[str]:
    """How `box` lies to `other`: 'left of', 'right of', 'above', 'below' (two of them on a diagonal, or none).

    With centre offset o and side lengths s, s': r = sign(o) max(|o| - margin (s + s'), 0), then a direction holds
    where its component of r / |o| exceeds one half.
    """
    a, b = np.reshape(box, (2, 2)), np.reshape(other, (2, 2))
    offset = a.mean(axis=0) - b.mean(axis=0)
    slack = margin * ((a[1] - a[0]) + (b[1] - b[0]))
    revised = np.sign(offset) * np.maximum(np.abs(offset) - slack, 0)
    if not revised.any():
        return set()
    dx, dy = revised / np.linalg.norm(offset)
    components = zip(RELATIONS, (-dx, dx, -dy, dy), strict=True)
    return {name for name, component in components if component > 0.5}
