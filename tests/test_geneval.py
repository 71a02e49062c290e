"""GenEval's rules one by one, on detections made by hand, and the official verdicts on three hundred cases."""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddspo.detectors.base import Detection, Detector, Reader
from ddspo.maths.statistics import by_tag, overall
from ddspo.metrics.base import Score
from ddspo.metrics.geneval import TAGS, GenEval, Verdict, overlap, relations

CASES = Path(__file__).parents[2] / "shared" / "data" / "geneval_verdicts.jsonl"
IMAGE = np.zeros((4, 4, 3), np.uint8)


class Fixed(Detector):
    """Finds the same things in every image."""

    def __init__(self, *found: Detection) -> None:
        self.found = list(found)

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Reader]:
        yield FixedReader(self.found, [])


@dataclass
class FixedReader(Reader):
    found: list[Detection]
    asked: list[Any]

    def __call__(self, images: Sequence[np.ndarray], names: Sequence[Collection[str]]) -> list[list[Detection]]:
        self.asked.append([set(each) for each in names])
        return [self.found for _ in images]

    def colours(self, image: np.ndarray, found: Sequence[Detection]) -> list[str | None]:
        self.asked.append([each.name for each in found])
        return super().colours(image, found)


def thing(name: str, colour: str = "red", confidence: float = 0.95, at: tuple[float, float] = (0, 0)) -> Detection:
    """A thing of 10 x 10 pixels."""
    x, y = at
    return Detection(name, confidence, (x, y, x + 10, y + 10), colour=colour)


def verdict(found: list[Detection], item: dict[str, Any]) -> Verdict:
    given = GenEval(Fixed()).judge(found, item, lambda objects: [each.colour for each in objects])
    assert given.correct == (not given.reasons)
    return given


def right(found: list[Detection], tag: str, include: list[dict[str, Any]], **more: Any) -> bool:
    return verdict(found, {"tag": tag, "include": include} | more).correct


@pytest.mark.skipif(not CASES.is_file(), reason="the official verdicts do not lie beside this project")
def test_the_official_verdicts() -> None:
    """Made by the official `evaluate_image`; detections at exactly .3 and .9 are among them."""
    rows = [json.loads(line) for line in CASES.read_text().splitlines()]
    assert len(rows) == 300
    for row in rows:
        found = [Detection(d["class"], d["confidence"], d["box"], colour=d["color"]) for d in row["detections"]]
        assert GenEval(Fixed()).missing(row["metadata"]) is None
        assert verdict(found, row["metadata"]).correct == row["correct"], row


def test_count_is_at_least_what_was_asked_for() -> None:
    include = [{"class": "cat", "count": 2}]
    assert [right([thing("cat")] * n, "two_object", include) for n in range(4)] == [False, False, True, True]
    assert not right([thing("cat"), thing("dog")], "two_object", include)


def test_exclude_sets_an_upper_bound() -> None:
    include, exclude = [{"class": "cat", "count": 2}], [{"class": "cat", "count": 3}]
    found = [right([thing("cat")] * n, "counting", include, exclude=exclude) for n in range(1, 5)]
    assert found == [False, True, False, False]
    assert right([thing("cat")] * 2 + [thing("dog")] * 5, "counting", include, exclude=exclude)


def test_every_include_must_be_found() -> None:
    include = [{"class": "cat", "count": 1}, {"class": "dog", "count": 1}]
    assert right([thing("dog"), thing("cat")], "two_object", include)
    assert not right([thing("dog"), thing("dog")], "two_object", include)


def test_counting_asks_for_more_confidence() -> None:
    """Confidence above .3 in general and above .9 for counting; at the bounds themselves there is nothing."""
    include = [{"class": "cat", "count": 1}]
    for tag, bound in (("single_object", 0.3), ("colors", 0.3), ("counting", 0.9)):
        assert right([thing("cat", confidence=bound + 0.01)], tag, include)
        assert not right([thing("cat", confidence=bound)], tag, include)


def test_colour_of_the_most_confident() -> None:
    """Of two cats only the more confident is looked at when one is asked for."""
    red, blue = thing("cat", "red", 0.8), thing("cat", "blue", 0.9)
    assert right([red, blue], "colors", [{"class": "cat", "count": 1, "color": "blue"}])
    assert not right([red, blue], "colors", [{"class": "cat", "count": 1, "color": "red"}])
    assert not right([red, blue], "colors", [{"class": "cat", "count": 2, "color": "red"}])


def test_attributes_may_not_be_swapped() -> None:
    include = [{"class": "cat", "count": 1, "color": "red"}, {"class": "dog", "count": 1, "color": "blue"}]
    assert right([thing("cat", "red"), thing("dog", "blue")], "color_attr", include)
    assert not right([thing("cat", "blue"), thing("dog", "red")], "color_attr", include)


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ((2, 0), set()),  # slack .1 (10 + 10) = 2 eats it all
        ((4, 0), set()),  # (4 - 2) / 4 is one half, and more than that is asked for
        ((4.5, 0), {"right of"}),  # 2.5 / 4.5 = .56
        ((-4.5, 0), {"left of"}),
        ((0, 4.5), {"below"}),
        ((0, -4.5), {"above"}),
        ((10, 10), {"right of", "below"}),  # 8 / 14.1 = .57 both ways
        ((-10, 10), {"left of", "below"}),
        ((10, 5), {"right of"}),  # 8 / 11.2 = .72 and 3 / 11.2 = .27
        ((4, 4), set()),  # 2 / 5.7 = .35
    ],
)
def test_relations_with_a_margin_of_a_tenth(offset: tuple[float, float], expected: set[str]) -> None:
    assert relations(thing("cat", at=offset).box, thing("dog").box, 0.1) == expected


def test_without_margin_any_offset_is_a_relation() -> None:
    assert relations(thing("cat", at=(0.1, 0)).box, thing("dog").box, 0.0) == {"right of"}
    assert relations(thing("cat").box, thing("dog").box, 0.0) == set()


def test_position_is_read_against_its_target() -> None:
    include = [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["above", 0]}]
    dog = thing("dog", at=(50, 50))
    assert right([dog, thing("cat", at=(50, 20))], "position", include)
    assert not right([dog, thing("cat", at=(20, 50))], "position", include)


def test_a_missing_target_fails_and_says_so() -> None:
    include = [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["above", 0]}]
    found = verdict([thing("cat")], {"tag": "position", "include": include})
    assert found.reasons == ("0 x dog, 1 wanted", "nothing for cat to be above")


def test_at_most_sixteen_of_a_class() -> None:
    """The most confident ones stay, so a seventeenth cannot break an upper bound of 17."""
    found = [thing("cat", confidence=0.901 + n / 1000) for n in range(20)] + [thing("dog")]
    kept = GenEval(Fixed()).objects(found, "counting")
    assert [len(kept["cat"]), len(kept["dog"])] == [16, 1]
    assert min(d.confidence for d in kept["cat"]) == pytest.approx(0.905)
    assert right(found, "counting", [{"class": "cat", "count": 16}], exclude=[{"class": "cat", "count": 17}])


def test_overlap_counts_the_last_pixels() -> None:
    """Boxes 0 ... 9 and 5 ... 14 by 0 ... 9 hold 10 x 10 pixels each and share 5 x 10: 50 / 150. Apart: 0."""
    assert overlap((0, 0, 9, 9), (5, 0, 14, 9)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 9, 9), (0, 0, 9, 9)) == 1
    assert overlap((0, 0, 9, 9), (20, 20, 29, 29)) == 0


def test_doubles_may_count_once() -> None:
    """Three boxes in a row, each moved by 2 of 11 pixels: 9/13 with the next, 7/15 with the one after it.

    The second goes at .5 because of the first; the third stays, for it is compared with those that stay.
    """
    found = [thing("cat", confidence=0.99 - n / 100, at=(2 * n, 0)) for n in range(3)] + [thing("dog", at=(2, 0))]
    kept = GenEval(Fixed(), max_overlap=0.5).objects(found, "counting")
    assert [each.box[0] for each in kept["cat"]] == [0, 4]
    assert len(kept["dog"]) == 1
    assert len(GenEval(Fixed(), max_overlap=9 / 13 + 1e-9).objects(found, "counting")["cat"]) == 3
    same = [thing("cat")] * 2
    assert len(GenEval(Fixed()).objects(same, "counting")["cat"]) == 2


def test_overall_is_the_mean_of_tag_means() -> None:
    """Tag a: 1 of 4; tag b: 1 of 1. Mean of tags (1/4 + 1) / 2 = 5/8, not 2/5."""
    tags, scores = ["a", "a", "b", "a", "a"], [1.0, 0.0, 1.0, 0.0, 0.0]
    assert by_tag(tags, scores) == {"a": 0.25, "b": 1.0}
    assert overall(tags, scores) == 0.625


def test_scores_say_what_is_wrong() -> None:
    item = {"tag": "single_object", "include": [{"class": "cat", "count": 1}]}
    cases: list[tuple[list[Detection], tuple[float, str]]] = [
        ([thing("cat")], (1.0, "")),
        ([thing("cat"), thing("dog", confidence=0.5)], (1.0, "")),
        ([], (0.0, "0 x cat, 1 wanted")),
    ]
    for found, expected in cases:
        assert scores(GenEval(Fixed(*found)), item) == [expected]


def scores(metric: GenEval, *rows: dict[str, Any]) -> list[Score]:
    with metric.open(torch.device("cpu")) as judge:
        return judge([IMAGE] * len(rows), rows)


def test_the_detector_hears_what_the_row_names_and_colours_only_where_one_is_named() -> None:
    detector = Fixed(thing("cat"), thing("cat", confidence=0.5), thing("dog"))
    plain = {"tag": "counting", "include": [CAT], "exclude": [CAT | {"class": "cow", "count": 2}]}
    coloured = {"tag": "color_attr", "include": [CAT | {"color": "red"}, {"class": "dog", "count": 1}]}
    reader = FixedReader(detector.found, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fixed, "open", contextmanager(lambda self, device: iter([reader])))
        assert [score.value for score in scores(GenEval(detector), plain, coloured)] == [1, 1]
    assert reader.asked == [[{"cat", "cow"}, {"cat", "dog"}], ["cat"]]


def test_it_is_what_its_detector_is() -> None:
    metric = GenEval(Knowing())
    assert metric.weights == ()
    assert metric.side is None
    assert metric.dtype(torch.device("cuda")) == torch.float32
    assert metric.group({"tag": "colors"}) == "colors"


class Knowing(Fixed):
    """Can name two animals and one colour."""

    classes = ("cat", "dog")
    colours = ("red",)


CAT = {"class": "cat", "count": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"include": [CAT]}, "tag None is none of single_object"),
        ({"tag": ["colors"], "include": [CAT]}, "tag ['colors'] is none of"),
        ({"tag": "colors"}, "`include` is no list of {class, count}"),
        ({"tag": "colors", "include": []}, "`include` is no list"),
        ({"tag": "colors", "include": {"class": "cat"}}, "`include` is no list"),
        ({"tag": "colors", "include": [CAT], "exclude": None}, "`exclude` is no list"),
        *(
            ({"tag": "colors", name: entries} | ({"include": [CAT]} if name == "exclude" else {}), message)
            for name in ("include", "exclude")
            for entries, message in (
                ([3], f"{name}[0]: 3 is no {{class, count}}"),
                ([{"class": "cat"}], f"{name}[0]: {{'class': 'cat'}} is no {{class, count}}"),
                ([CAT | {"class": "dragon"}], f"{name}[0]: class 'dragon' is none that the detector knows: cat, dog"),
                ([CAT | {"class": ["cat"]}], f"{name}[0]: class ['cat'] is no text"),
                ([CAT | {"colour": "red"}], f"{name}[0]: 'colour' is none of class, count"),
                *(
                    ([CAT | {"count": count}], f"{name}[0]: count {count!r} is no whole number from 1 to 16")
                    for count in (-1, 0, True, 1.5, 2.0, "many", None, 17)
                ),
            )
        ),
        ({"tag": "colors", "include": [CAT | {"color": "plaid"}]}, "include[0]: color 'plaid' is none that"),
        ({"tag": "colors", "include": [CAT | {"color": None}]}, "include[0]: color None is no text"),
        ({"tag": "counting", "include": [CAT], "exclude": [CAT]}, "`exclude` forbids the 1 x cat that `include`"),
        *(
            ({"tag": "position", "include": [CAT, CAT | {"position": position}]}, message)
            for position, message in (
                (["on top of", 0], "include[1]: position ['on top of', 0] is no list of one of left of, right of"),
                ([["above"], 0], "is no list of one of"),
                ("above", "position 'above' is no list of one of"),
                (["above"], "position ['above'] is no list of one of"),
                *(
                    (["above", index], "its target must be an earlier entry")
                    for index in (1, 2, -1, True, False, 0.0, "0")
                ),
            )
        ),
    ],
)
def test_rows_that_could_only_be_wrong(row: dict[str, Any], message: str) -> None:
    assert message in (GenEval(Knowing()).missing(row) or "")


ENTRY = st.dictionaries(
    st.sampled_from(["class", "count", "color", "position"]),
    st.sampled_from(["cat", "dog", "red", 1, 2, 0, None, True, ["above", 0], ["left of", 1], [], {}, 1.0]),
)


@given(
    st.sampled_from([*TAGS, None, 3]),
    st.lists(ENTRY, max_size=3) | st.none(),
    st.lists(ENTRY, max_size=2) | st.none() | st.just("cat"),
)
def test_what_is_not_refused_can_be_judged(tag: Any, include: Any, exclude: Any) -> None:
    row = {"tag": tag, "include": include, "exclude": exclude}
    metric = GenEval(Knowing(thing("cat"), thing("dog", at=(30, 0))))
    if metric.missing(row) is None:
        scores(metric, row)


def test_rows_that_can_be_right() -> None:
    rows: list[dict[str, Any]] = [
        {"tag": "colors", "include": [CAT | {"color": "red"}]},
        {"tag": "counting", "include": [CAT | {"count": 16}]},
        {"tag": "counting", "include": [CAT], "exclude": [CAT | {"count": 2}, CAT | {"class": "dog"}]},
        {"tag": "position", "include": [CAT, {"class": "dog", "count": 1, "position": ["above", 0]}]},
    ]
    assert [GenEval(Knowing()).missing(row) for row in rows] == [None] * 4
    anything = {"tag": "colors", "include": [{"class": "dragon", "count": 1, "color": "plaid"}]}
    assert GenEval(Fixed()).missing(anything) is None
