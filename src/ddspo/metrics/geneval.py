"""GenEval's scoring rules over any detector (Ghosh et al. 2023, arXiv 2310.11513).

An image is right when every `include` entry is found (count, colour, relation) and no `exclude` entry is; a tag's
score is the mean over its images, and the overall score is the mean of the tag scores, not of the images.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Gt, Interval
from typing_extensions import Doc

from ddspo.detectors.base import Box, Detection, Detector
from ddspo.errors import quoted
from ddspo.metrics._rows import RELATIONS, fault_of
from ddspo.metrics.base import Metric, Score

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


class Verdict(NamedTuple):
    """Whether an image is what its prompt says, and in words what is wrong."""

    correct: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class GenEval(Metric):
    """1 for an image that is what its prompt says, 0 for any other, by GenEval's rules over a detector's findings."""

    detector: Annotated[Detector, Doc("who reads the images")]
    threshold: Annotated[float, Interval(ge=0, le=1), Doc("least confidence of an object")] = 0.3
    counting_threshold: Annotated[
        float, Interval(ge=0, le=1), Doc("the same for the tag `counting`, where doubles cost more")
    ] = 0.9
    max_objects: Annotated[int, Gt(0), Doc("objects kept of each class, the most confident first")] = 16
    margin: Annotated[float, Interval(ge=0, le=1), Doc("share of both boxes' sides that a relation must exceed")] = 0.1

    @property
    def side(self) -> int | None:
        """That of the detector."""
        return self.detector.side

    def check(self, item: Mapping[str, Any]) -> str | None:
        """A tag of GenEval's, and entries that the detector can find, count, and tell the colours of."""
        if item.get("tag") not in TAGS:
            return f"tag {quoted(item.get('tag'), 40)} is none of {', '.join(TAGS)}"
        return fault_of(item, self.detector, self.max_objects)

    def __call__(self, images: Sequence[np.ndarray], items: Sequence[Mapping[str, Any]]) -> list[Score]:
        """Detect, then judge; confident means that there are objects and all reach the counting threshold."""
        return [self._score(self.detector(image), item) for image, item in zip(images, items, strict=True)]

    def _score(self, detections: Sequence[Detection], item: Mapping[str, Any]) -> Score:
        verdict = self.judge(detections, item)
        seen = [d.confidence for d in detections if d.confidence >= self.threshold]
        confident = bool(seen) and min(seen) >= self.counting_threshold
        return Score(float(verdict.correct), confident, "; ".join(verdict.reasons))

    def judge(self, detections: Sequence[Detection], item: Mapping[str, Any]) -> Verdict:
        """Compare what was found with one metadata row (tag, include, exclude?)."""
        found = self.group(detections, item["tag"])
        reasons: list[str] = []
        matched: list[list[Detection] | None] = []
        for entry in item["include"]:
            fault = self._fault(entry, found, matched)
            reasons += [fault] if fault else []
            matched.append(None if fault else found[entry["class"]][: entry["count"]])
        for entry in item.get("exclude", ()):
            if len(found[entry["class"]]) >= entry["count"]:
                reasons.append(f"{len(found[entry['class']])} x {entry['class']}, fewer than {entry['count']} wanted")
        return Verdict(not reasons, tuple(reasons))

    def group(self, detections: Sequence[Detection], tag: str) -> dict[str, list[Detection]]:
        """Confident detections by class, at most `max_objects` of each, most confident first."""
        least = self.counting_threshold if tag == "counting" else self.threshold
        found: dict[str, list[Detection]] = defaultdict(list)
        for detection in sorted(detections, key=lambda d: -d.confidence):
            if detection.confidence >= least and len(found[detection.name]) < self.max_objects:
                found[detection.name].append(detection)
        return found

    def _fault(
        self,
        entry: Mapping[str, Any],
        found: Mapping[str, list[Detection]],
        matched: Sequence[list[Detection] | None],
    ) -> str | None:
        """What is wrong with one `include` entry, or None."""
        name, count = entry["class"], entry["count"]
        objects = found[name][:count]
        if len(objects) < count:
            return f"{len(objects)} x {name}, {count} wanted"
        if "color" in entry and sum(o.colour == entry["color"] for o in objects) < count:
            return f"{name} is {', '.join(str(o.colour) for o in objects)}, {entry['color']} wanted"
        if "position" in entry:
            relation, index = entry["position"]
            targets = matched[index]
            if targets is None:
                return f"nothing for {name} to be {relation}"
            if not all(relation in relations(a.box, b.box, self.margin) for a in objects for b in targets):
                return f"{name} is not {relation} its target"
        return None


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
