"""T2I-CompBench's spatial score, by hand: its formula, its words, its pixels."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from ddspo.detectors.base import Detection, Detector, Reader
from ddspo.metrics.base import Score
from ddspo.metrics.compbench_spatial import CompBenchSpatial, Said, position, said

PROMPTS = Path(__file__).parents[2] / "shared" / "data" / "t2i_compbench" / "spatial_val.txt"
SQUARE = (479, 479)
"""Here a pixel is a pixel."""


@dataclass(frozen=True)
class Given(Detector, Reader):
    """Finds what it is given, and notes nothing."""

    found: tuple[Detection, ...] = ()
    known: tuple[str, ...] | None = None

    @property
    def classes(self) -> Collection[str] | None:
        return self.known

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Reader]:
        yield self

    def __call__(self, images: Sequence[np.ndarray], names: Sequence[Collection[str]]) -> list[list[Detection]]:
        return [[each for each in self.found if each.name in asked] for asked in names]


def thing(name: str, confidence: float, *box: float) -> Detection:
    return Detection(name, confidence, box)


def scored(prompt: str, *found: Detection, size: tuple[int, int] = SQUARE) -> Score:
    metric = CompBenchSpatial(Given(found))
    assert metric.missing({"prompt": prompt}) is None
    with metric.open(torch.device("cpu")) as judge:
        (score,) = judge([np.zeros((*size, 3), np.uint8)], [{"prompt": prompt}])
    return score


@pytest.mark.parametrize(
    ("relation", "box", "expected"),
    [
        # the other is 100 ... 200 both ways, its centre at 150
        ("on the left of", (0, 100, 90, 200), 1),
        ("on the right of", (0, 100, 90, 200), 0),
        ("on the right of", (210, 100, 300, 200), 1),
        ("on the top of", (100, 0, 200, 90), 1),
        ("on the bottom of", (100, 0, 200, 90), 0),
        ("on the bottom of", (100, 210, 200, 300), 1),
        ("on the left of", (0, 0, 90, 90), 0),  # as far up as left: 105 each
        ("on the left of", (0, 10, 90, 100), 1),  # 105 left, 95 up
        ("on the left of", (60, 100, 160, 200), 0.1 / (60 / 140)),  # shares 60 of 140 columns
        ("on the left of", (18, 100, 118, 200), 1),  # shares 18 of 182: .0989
        ("on the left of", (19, 100, 119, 200), 0.1 / (19 / 181)),  # .105
        ("next to", (0, 100, 90, 200), 1),
        ("near", (350, 350, 450, 450), 150 / 250),  # 250 away both ways
        ("near", (249, 350, 349, 450), 1),  # 149 to the right will do, however far down
        ("on side of", (250, 350, 350, 450), 150 / 250),  # 150 is not near
        ("near", (300, 350, 400, 450), 150 / 250),  # the larger of 200 and 250
    ],
)
def test_positions(relation: str, box: tuple[float, ...], expected: float) -> None:
    assert position(relation, box, (100, 100, 200, 200), SQUARE) == pytest.approx(expected)


def test_distances_are_of_images_of_480_pixels() -> None:
    """Twice as large an image, everything twice as far: the official code makes images small before it looks.

    The long side becomes 480 (a square's sides 479): 200 pixels of 958 are 100, of 640 x 480 they are 150.
    """
    boxes = (0, 0, 100, 100), (200, 200, 300, 300)
    assert position("near", *boxes, (958, 958)) == 1
    assert position("near", *boxes, (480, 640)) == pytest.approx(1)
    assert position("near", *boxes, (479, 479)) == pytest.approx(150 / 200)
    assert position("near", *boxes, (480, 639)) == pytest.approx(150 / (200 * 480 / 639))


def test_both_objects_and_their_place() -> None:
    """.8 / 4 + .6 / 4 + 1 / 2 = .85; the wrong way round .35, below one half, thus 0; sure of both, .25 + .25 = .5."""
    left, right = thing("dog", 0.8, 0, 100, 90, 200), thing("cat", 0.6, 100, 100, 200, 200)
    assert scored("a dog on the left of a cat", left, right) == (pytest.approx(0.85), "")
    assert scored("a cat on the left of a dog", left, right) == (0, "cat on the left of dog: 0.00")
    certain = [each._replace(confidence=1.0) for each in (left, right)]
    assert scored("a cat on the left of a dog", *certain).value == 0.5


def test_one_object_is_nothing() -> None:
    """.25 of its confidence is below one half in any case. An object is one above .5."""
    dog = thing("dog", 0.99, 0, 0, 9, 9)
    assert scored("a dog near a cat", dog) == (0, "no cat")
    assert scored("a dog near a cat") == (0, "no dog and no cat")
    assert scored("a dog near a cat", dog, thing("cat", 0.5, 0, 0, 9, 9)) == (0, "no cat")


def test_the_most_confident_of_each_counts() -> None:
    """In whatever order they are found: .6 and .9 at the left, .7 at the right."""
    cat = thing("cat", 0.7, 100, 100, 200, 200)
    wrong, good = thing("dog", 0.6, 210, 100, 300, 200), thing("dog", 0.9, 0, 100, 90, 200)
    assert scored("a dog on the left of a cat", wrong, cat, good).value == pytest.approx(1.6 / 4 + 0.5)


def test_persons() -> None:
    found = thing("person", 0.8, 0, 100, 90, 200), thing("frog", 0.8, 100, 100, 200, 200)
    for word in ("girl", "boy", "man", "woman", "person"):
        assert scored(f"a {word} on the left of a frog", *found).value == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a bee on the right of a refrigerator", Said("bee", "on the right of", "refrigerator")),
        ("An  airplane near the wine glass.", Said("airplane", "near", "wine glass")),
        ("a mouse on side of a key", Said("mouse", "on side of", "key")),
        ("a dog above a cat", None),
        ("a linear key", None),
        ("near a dog", None),
        ("a dog on top of a cat", None),  # of which the official code knows no direction
    ],
)
def test_what_a_prompt_says(prompt: str, expected: Said | None) -> None:
    assert said(prompt) == expected


@pytest.mark.skipif(not PROMPTS.is_file(), reason="the benchmark's prompts do not lie beside this project")
def test_the_benchmarks_own_prompts() -> None:
    """Each has a relation and one word on either side, so that spaCy's first and last noun can be no others."""
    prompts = PROMPTS.read_text().splitlines()
    assert len(prompts) == 300
    for prompt in prompts:
        found = said(prompt)
        assert found is not None, prompt
        assert " " not in found.first + found.second, prompt


def test_what_cannot_be_judged() -> None:
    metric = CompBenchSpatial(Given(known=("dog", "cat")))
    assert metric.missing({"prompt": "a dog near a cat"}) is None
    assert "'lamp' is none that the detector knows: dog, cat" in (
        metric.missing({"prompt": "a lamp near a cat"}) or ""
    )
    assert "does not say of two things" in (metric.missing({"prompt": "a dog"}) or "")


def test_another_prompts_row_gets_another_score() -> None:
    """The control: an image of a dog beside a cat says nothing of a lamp."""
    found = thing("dog", 0.8, 0, 100, 90, 200), thing("cat", 0.6, 100, 100, 200, 200)
    assert scored("a lamp near a vase", *found).value == 0
    assert CompBenchSpatial.reads_prompt
