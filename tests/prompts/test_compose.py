"""Prompts that are made: what they say, whose they are, and that nobody published them."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ddspo.errors import InputError
from ddspo.prompts._vocabulary import COLOURS, known, nouns, plural, said, with_article
from ddspo.prompts.addresses import address_of, addressed
from ddspo.prompts.compose import PUBLISHED, Compose, digest_of_said, published, split_of
from ddspo.prompts.reading import read_prompts
from ddspo.rows import Row

DATA = next((each / "shared/data" for each in Path(__file__).parents if (each / "shared/data").is_dir()), None)
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


@cache
def rows(split: str, count: int, classes: str = "open", seed: int = 0) -> tuple[Row, ...]:
    return tuple(Compose(split, count, seed, classes).rows())  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", ["coco", "open"])
def test_twenty_thousand_different_prompts(classes: str) -> None:
    """The same ones every time; of another seed others; the first of more are those of fewer."""
    found = rows("alignment", 20_000, classes)
    assert len({row["prompt"] for row in found}) == 20_000
    assert tuple(Compose("alignment", 300, 0, classes).rows()) == found[:300]  # type: ignore[arg-type]
    other = rows("alignment", 300, classes, seed=1)
    assert len({row["prompt"] for row in other} & {row["prompt"] for row in found[:300]}) < 30


@pytest.mark.parametrize("classes", ["coco", "open"])
def test_splits_share_nothing_that_is_said(classes: str) -> None:
    """Neither a wording, nor the set of nouns, colours, count and relation; of any two seeds."""
    said_by = {split: {said(row["prompt"]) for row in rows(split, 3000, classes, seed)} for split, seed in SPLITS}
    assert all(len(each) > 1500 for each in said_by.values())
    for one, other in (("alignment", "validation"), ("alignment", "evaluation"), ("validation", "evaluation")):
        assert not said_by[one] & said_by[other]


SPLITS = (("alignment", 0), ("validation", 1), ("evaluation", 2))


def test_tags_are_in_turn_and_rows_are_those_of_geneval() -> None:
    """Each word of a prompt is that of its row, checked by writing the prompt anew."""
    found = rows("evaluation", 600)
    assert [row["tag"] for row in found[:6]] == list(TAGS)
    assert set(Counter(row["tag"] for row in found).values()) == {100}
    for row in found:
        ending = {"counting": _counted, "position": _placed}.get(row["tag"], _listed)(row["include"])
        assert row["prompt"].endswith(ending), row
        assert all(set(entry) <= {"class", "count", "color", "position"} for entry in row["include"])
        excluded = [{"class": entry["class"], "count": entry["count"] + 1} for entry in row["include"]]
        assert row.get("exclude", []) == (excluded if row["tag"] == "counting" else [])


def _counted(include: list[Row]) -> str:
    (entry,) = include
    return f"{('two', 'three', 'four', 'five', 'six')[entry['count'] - 2]} {plural(entry['class'])}"


def _placed(include: list[Row]) -> str:
    assert include[1]["position"][1] == 0
    return f"{with_article(include[1]['class'])} {include[1]['position'][0]} {with_article(include[0]['class'])}"


def _listed(include: list[Row]) -> str:
    return " and ".join(with_article(f"{entry.get('color', '')} {entry['class']}".strip()) for entry in include)


def test_nouns_of_coco_are_geneval_s_names() -> None:
    """So that a detector of COCO's classes can judge every row."""
    known_there = {noun for row in rows("alignment", 5000, "coco") for noun in (e["class"] for e in row["include"])}
    assert known_there == set(nouns().coco)
    assert len(nouns().coco) == 78
    assert len(set(nouns().open)) == len(nouns().open) > 800
    assert set(nouns().coco) < set(nouns().open)


def test_english() -> None:
    assert [with_article(each) for each in ("hourglass", "orange car", "unicycle", "umbrella", "euphonium")] == [
        "an hourglass",
        "an orange car",
        "a unicycle",
        "an umbrella",
        "a euphonium",
    ]
    assert [plural(each) for each in ("knife", "wine glass", "computer mouse", "sheep", "toothbrush", "ox")] == [
        "knives",
        "wine glasses",
        "computer mice",
        "sheep",
        "toothbrushes",
        "oxen",
    ]


def test_nothing_is_said_twice_or_of_people() -> None:
    """No orange orange, no coloured person, no bear beside a teddy bear, no two colours that are one."""
    for row in rows("alignment", 20_000, "coco"):
        first, *others = row["include"]
        for entry in row["include"]:
            assert "color" not in entry or entry["class"] not in ("person", "orange")
            assert row["tag"] != "counting" or entry["class"] != "broccoli"
        for other in others:
            assert not set(first["class"].split()) & set(other["class"].split())
            assert "color" not in other or other["color"] != first["color"]


def test_what_a_text_says() -> None:
    """Number, order, mirrored relations and whose a colour is make no difference; a noun, a colour, an axis do."""
    assert said("a photo of a cup left of an umbrella") == said(
        "An umbrella to the right of two-legged cups".replace("two-legged ", "")
    )
    assert said("a red cup and a blue fork") == said("an image of a blue cup and a red fork")
    assert said("a photo of four knifes") == said("four knives") != said("four forks")
    assert said("a cup above a fork") != said("a cup left of a fork") != said("a cup and a fork")


def texts_of(pattern: str) -> Iterator[str]:
    if DATA is None:
        pytest.skip("needs the published prompts beside the repository, in ../shared/data")
    for path in sorted(DATA.glob(pattern)):
        for line in filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines())):
            yield json.loads(line)["prompt"] if path.suffix == ".jsonl" else line


@pytest.mark.parametrize("pattern", ["geneval_metadata.jsonl", "t2i_compbench/*.txt", "parti_prompts.txt"])
def test_no_prompt_says_what_a_benchmark_says(pattern: str) -> None:
    """Neither by its text, nor by the nouns, colours, number and relation; and all that could be is known as such."""
    theirs = list(texts_of(pattern))
    plain = {" ".join(text.casefold().split()) for text in theirs}
    what = {said(text) for text in theirs}
    for split in ("alignment", "validation", "evaluation"):
        for classes in ("coco", "open"):
            for row in rows(split, 20_000 if split == "alignment" else 3000, classes):
                assert row["prompt"] not in plain
                assert said(row["prompt"]) not in what
    lost = sorted({digest_of_said(text) for text in theirs if said(text) and said(text) <= known()} - published())
    assert not lost, f"add to prompts/{PUBLISHED}: {lost}"


def test_a_benchmark_s_own_rows_by_nouns_colours_and_relation() -> None:
    """The same by GenEval's rows, without any reading of texts."""

    def content(row: Row) -> object:
        things = frozenset((e["class"], e.get("color")) for e in row["include"])
        relations = frozenset(e["position"][0] for e in row["include"] if "position" in e)
        return things, relations, max(e["count"] for e in row["include"])

    if DATA is None:
        pytest.skip("needs the published prompts beside the repository, in ../shared/data")
    theirs = {content(json.loads(line)) for line in (DATA / "geneval_metadata.jsonl").read_text().splitlines()}
    assert len(theirs) > 500
    ours = {content(row) for split, seed in SPLITS for row in rows(split, 3000, "coco", seed)}
    assert not ours & theirs


def test_a_published_prompt_is_in_no_split() -> None:
    assert split_of("a photo of a bench") is None
    assert split_of("a photo of a euphonium beside two kettles") is not None


def test_many_of_the_smallest_split() -> None:
    """What has run out is left to the tags that have many pairs."""
    made = [row["tag"] for row in Compose("validation", 3000, 0, "coco").rows()]
    assert len(made) == 3000
    assert set(made[-10:]) == {"two_object", "position", "color_attr"}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("compose://alignmnt", "split 'alignmnt': input should be 'alignment', 'validation' or 'evaluation'"),
        ("compose://alignment?cuont=3", "no option 'cuont': did you mean count?"),
        ("compose://alignment?count=100001", "count '100001': input should be less than or equal to 100000"),
        ("compose://alignment?count=many", "count 'many': input should be a valid integer"),
        ("compose://alignment?classes=lvis", "classes 'lvis': input should be 'coco' or 'open'"),
    ],
)
def test_mistakes_are_one_line(path: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_prompts(path, "evaluate.prompts")
    assert str(caught.value).startswith("evaluate.prompts: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_addresses_and_groups() -> None:
    made = Compose("evaluation", 30, 5, "coco")
    assert address_of(made) == "compose://evaluation?count=30&seed=5&classes=coco"
    assert address_of(Compose()) == "compose://alignment"
    read = read_prompts(address_of(made), "evaluate.prompts")
    assert [{key: row[key] for key in row if key != "id"} for row in read] == list(made.rows())
    group = {"compose": {"split": "evaluation", "seed": 5, "count": 30, "classes": "coco"}, "limit": 3}
    assert addressed(group, "prompts") == {"path": address_of(made), "limit": 3}
    for same in ("p.txt", {"path": "p.txt"}, None, {"limit": 3}):
        assert addressed(same, "prompts") == same
    assert set(COLOURS) <= known()
