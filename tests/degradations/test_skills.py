"""Broken skills: sentences with expected variants, and every public benchmark prompt."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddspo import components
from ddspo.degradations._edits import SKILLS, edits
from ddspo.degradations._lexicon import lexicon
from ddspo.degradations._reading import Reading
from ddspo.degradations.base import Degradation
from ddspo.degradations.skills import Skills
from ddspo.errors import InputError
from ddspo.files import write_rows
from ddspo.rows import read_rows

SHARED = Path(__file__).parents[3] / "shared" / "data"
SCENES = "package://ddspo.scenes/data/alignment.jsonl"


def texts(prompt: str, kind: str, vocabulary: frozenset[str] | None = None) -> set[str]:
    found = edits(prompt, np.random.default_rng(0), vocabulary)
    return {edit.text for edit in found if f"{edit.operation}_{edit.skill}" == kind}


@pytest.mark.parametrize(
    ("prompt", "kind", "expected"),
    [
        ("two dogs on a rug", "remove_count", {"dogs on a rug"}),
        ("two dogs on a rug", "generalise_count", {"some dogs on a rug"}),
        ("the two dogs", "generalise_count", set()),
        ("a photo of one dog", "remove_count", set()),
        ("a red car", "remove_colour", {"a car"}),
        ("an old red car", "remove_colour", {"an old car"}),
        ("an orange umbrella", "remove_colour", {"an umbrella"}),
        ("a black and white cat", "remove_colour", {"a white cat", "a black cat"}),
        ("a tall, light green bottle", "remove_size", {"a light green bottle"}),
        ("a tall, light green bottle", "remove_colour", {"a tall bottle"}),
        ("A wooden chair", "remove_material", {"A chair"}),
        ("a fluffy pillow", "remove_texture", {"a pillow"}),
        ("an oval mirror", "remove_shape", {"a mirror"}),
        ("a cat and a dog", "remove_object", {"a cat", "a dog"}),
        ("a photo of a bench", "remove_object", {"a photo"}),
        ("a cat behind a boy", "remove_object", set()),
        ("a cat and a dog are asleep", "remove_object", set()),
        ("a photo of a cat behind a boy", "remove_relation", {"a photo of a cat and a boy"}),
        ("The cat is on top of the car.", "remove_relation", {"The cat and the car."}),
        ("The cat is on top of the car and sleeps.", "remove_relation", set()),
    ],
)
def test_remove(prompt: str, kind: str, expected: set[str]) -> None:
    assert texts(prompt, kind) == expected


@pytest.mark.parametrize(
    ("prompt", "kind", "expected"),
    [
        ("a cat", "generalise_object", {"an animal"}),
        ("two cats", "generalise_object", {"two animals"}),
        ("a red car", "generalise_object", {"a red vehicle"}),
        ("an umbrella and a hot dog", "generalise_object", {"an object and a hot dog", "an umbrella and a snack"}),
        ("three women", "generalise_object", {"three people"}),
        ("a coffee table", "generalise_object", {"a piece of furniture"}),
        ("four traffic lights", "generalise_object", {"four devices"}),
        ("a bowl of broccoli", "generalise_object", {"a container of broccoli", "a bowl of vegetables"}),
        ("Times Square", "generalise_object", set()),
        ("a cat left of a car", "generalise_relation", {"a cat next to a car"}),
        ("a cat next to a car", "generalise_relation", set()),
    ],
)
def test_generalise(prompt: str, kind: str, expected: set[str]) -> None:
    assert texts(prompt, kind) == expected


@pytest.mark.parametrize(
    ("prompt", "kind", "expected"),
    [
        ("a red cube and a blue ball", "swap_colour", {"a blue cube and a red ball"}),
        ("a wooden cup, a paper bag", "swap_material", {"a paper cup, a wooden bag"}),
        ("The sky is blue and the sea is green", "swap_colour", {"The sky is green and the sea is blue"}),
        ("a small house", "swap_size", {"a large house"}),
        ("a tall tree", "swap_size", {"a short tree"}),
        ("a cat left of a dog", "swap_relation", {"a cat right of a dog", "a dog left of a cat"}),
        (
            "The cat is behind the tree.",
            "swap_relation",
            {"The cat is in front of the tree.", "The tree is behind the cat."},
        ),
        ("a cat near a dog", "swap_relation", {"a cat far away from a dog"}),
        ("a bowl of fruit behind a cat", "swap_relation", {"a bowl of fruit in front of a cat"}),
        ("a red cat and a blue dog", "swap_colour", {"a blue cat and a red dog"}),
        ("two cats and an umbrella", "swap_count", {"five cats and an umbrella"}),
        ("one mouse", "swap_count", {"four mice"}),
        ("2 mice", "swap_count", {"5 mice"}),
        ("one dog is asleep", "swap_count", set()),
    ],
)
def test_swap(prompt: str, kind: str, expected: set[str]) -> None:
    """Where a substitute is drawn, it is the first of seed 0."""
    assert texts(prompt, kind) == expected


def test_objects_change_places_with_their_numbers() -> None:
    assert "two umbrellas and a cat" in texts("two cats and an umbrella", "swap_object")
    assert "a blue cat and a red umbrella" in texts("a blue umbrella and a red cat", "swap_object")


def test_an_exchange_that_means_the_same_is_none() -> None:
    """'a cat and a dog' shows what 'a dog and a cat' shows."""
    assert "a dog and a cat" not in texts("a cat and a dog", "swap_object")
    assert texts("a red car and a red bus", "swap_colour").isdisjoint({"a red car and a red bus"})


def test_substitutes_exclude_what_they_replace() -> None:
    """No couch for a sofa, no bicycle for a bike, no wooden for wood, and nothing that is there already."""
    for prompt, kind, never in [
        ("a sofa", "swap_object", "a couch"),
        ("two bikes", "swap_object", "two bicycles"),
        ("a wood floor", "swap_material", "a wooden floor"),
        ("a lion and a lamb", "swap_object", "a lion and a lion"),
    ]:
        found = {
            e.text for seed in range(60) for e in edits(prompt, np.random.default_rng(seed)) if e.operation == "swap"
        }
        assert len(found) > 5, kind
        assert never not in found


def test_case_and_space_stay() -> None:
    assert texts("A  RED CAR, parked", "remove_colour") == {"A CAR, parked"}
    assert texts("Two cats", "remove_count") == {"Cats"}
    assert texts("A PHOTO OF A CAT", "generalise_object") == {"A PHOTO OF AN ANIMAL"}


def test_a_word_is_what_its_place_makes_it() -> None:
    """'orange' is a colour before a noun and a fruit else; 'left' in 'left of' is no noun, 'hot dog' no dog."""
    reading = Reading.of("an orange cat left of an orange and a hot dog")
    assert [reading.thing(phrase) for phrase in reading.objects] == ["cat", "orange", "hot dog"]
    assert [[a.skill for a in phrase.attributes] for phrase in reading.objects] == [["colour"], [], []]
    assert [link.relation.words for link in reading.links] == ["left of"]


def test_the_lists_are_sound() -> None:
    """Opposites are relations or sizes themselves; substitutes belong to one skill and exclude each other."""
    words = lexicon()
    for relation in words.relations.values():
        assert relation.opposite in words.relations or relation.opposite == "outside of"
        assert relation.vague is None or words.relations[relation.vague].vague is None
    assert all(other in words.attributes for other in words.opposites.values())
    for group in (*words.common.values(), *(category.common for category in words.categories.values())):
        assert not [(a, b) for a in group for b in group if a != b and words.is_same(a, b)]


def test_kinds_name_operation_and_skill() -> None:
    (variants,) = Skills(variants=100)(["two red cats left of a small wooden table"], [0])
    kinds = {kind for _, kind in variants}
    assert {
        "remove_count",
        "swap_colour",
        "generalise_object",
        "swap_relation",
        "swap_size",
        "remove_material",
    } <= kinds
    assert all(kind.split("_")[1] in SKILLS for kind in kinds)


def test_operations_are_the_recipes() -> None:
    (variants,) = Skills(operations=("remove",), variants=100)(["two red cats left of a table"], [0])
    assert {kind for _, kind in variants} == {"remove_count", "remove_colour", "remove_relation"}


def test_a_prompt_depends_on_its_own_seed_only() -> None:
    prompt = "two red cats left of a small wooden table"
    (alone,) = Skills()([prompt], [3])
    assert Skills()(["a dog", prompt], [1, 3])[1] == alone
    assert len({tuple(found) for found in Skills()([prompt] * 20, range(20))}) > 10


@settings(max_examples=60)
@given(st.text(max_size=40), st.integers(0, 2**63 - 1))
def test_any_text_is_read(prompt: str, seed: int) -> None:
    for text, _ in Skills()([prompt], [seed])[0]:
        assert text.strip()
        assert text.split() != prompt.split()


def test_a_prompt_without_a_skill() -> None:
    """It gets no variant, so that it is reported, or loses words if the recipe says so; the kind tells which."""
    assert Skills()(["artificial intelligence"], [0]) == [[]]
    (variants,) = Skills(without="remove_words")(["artificial intelligence"], [0])
    assert {text for text, _ in variants} <= {"artificial", "intelligence"}
    assert {kind for _, kind in variants} == {"remove_words"}
    assert Skills(without="remove_words")(["peace"], [0]) == [[]]


def test_a_vocabulary_is_kept_to(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\na big blue dog\nthree horses\n")
    words = set(path.read_text().split()) | {"two", "red", "pigs", "left", "of", "a", "sheep"}
    skills = Skills(vocabulary=str(path), variants=100)
    options = set(vars(skills))
    (variants,) = skills(["two red pigs left of a sheep"], [0])
    assert set(vars(skills)) > options
    skills.finish()
    assert set(vars(skills)) == options, "what was read is let go"
    assert {word for text, _ in variants for word in text.split()} <= words | {"and"}
    assert "swap_colour" in {kind for _, kind in variants}
    with pytest.raises(InputError, match=r"degradation\.skills\.vocabulary: no file"):
        Skills(vocabulary=str(tmp_path / "none.txt"))(["a cat"], [0])


def score(tag: str, value: float, **other: object) -> dict[str, object]:
    return {"tag": tag, "value": value, "model": "base", "split": "validation", "control": False} | other


def test_skills_at_which_the_base_fails_are_drawn_more(tmp_path: Path) -> None:
    """Of 8 counts it fails at 8, of 8 positions at none: (8+1)/(8+2) = .9 against (0+1)/(8+2) = .1.

    The prompt has both skills and objects, whose tags have no row: (0+1)/(0+2) = .5. So of many single variants
    .9/1.5 = 60 % break the count, .1/1.5 = 7 % the relation; 3 standard deviations of 600 draws are 6 and 3 %.
    Rows of the aligned model, of the evaluation split and of controls, all failures of relations, do not count.
    """
    path = tmp_path / "geneval.jsonl"
    strangers: list[dict[str, object]] = [{"model": "aligned"}, {"split": "evaluation"}, {"control": True}]
    others = [score("position", 0, **each) for each in strangers] * 50
    write_rows(path, [score("counting", 0)] * 8 + [score("position", 1)] * 8 + others)
    found = Skills(scores=str(path), variants=1)(["two cats left of two cats"] * 600, range(600))
    share = Counter(kind.split("_")[1] for ((_, kind),) in found)
    assert abs(share["count"] / 600 - 0.6) < 0.06
    assert abs(share["relation"] / 600 - 1 / 15) < 0.031


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no file .*: give scores/geneval.jsonl of a run that was evaluated"),
        ('{"prompt": "a cat"}\n', "row 1: no 'model': give scores/geneval.jsonl of a run"),
        (json.dumps(score("beauty", 1)), "row 1: tag 'beauty' is none of"),
        (json.dumps(score("position", 21.5)), "row 1: value 21.5 is not between 0 and 1"),
        (json.dumps(score("position", 1, model="aligned")), "has no row of the base model on validation prompts"),
        ("", "has no row of the base model on validation prompts"),
        ("no json", "not JSON"),
    ],
)
def test_a_foreign_file_of_scores(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "geneval.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        Skills(scores=str(path))(["a cat"], [0])


def test_the_scenes_prompts_in_the_words_of_their_world() -> None:
    """All are degraded, by every skill that they test, and no word is new to the miniature."""
    built = components.construct(Degradation, {"skills": {"vocabulary": SCENES}}, "degradation")
    prompts = [row["prompt"] for row in read_rows(Path(__file__).parents[2] / "src/ddspo/scenes/data/alignment.jsonl")]
    every = built(prompts, range(len(prompts)))
    assert all(every)
    words = {word for prompt in prompts for word in prompt.split()}
    assert {word for variants in every for text, _ in variants for word in text.split()} <= words
    kinds = Counter(kind for variants in every for _, kind in variants)
    assert {kind.split("_")[1] for kind in kinds} == {"object", "count", "colour", "relation"}
    assert kinds["swap_colour"] > 100
    assert kinds["swap_relation"] > 100


def benchmarks() -> dict[str, list[str]]:
    files = [SHARED / "parti_prompts.txt", *sorted((SHARED / "t2i_compbench").glob("*.txt"))]
    found = {
        file.stem: [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()] for file in files
    }
    return found | {"geneval": [row["prompt"] for row in read_rows(SHARED / "geneval_metadata.jsonl")]}


LEAST = {"geneval": 1.0, "parti_prompts": 0.84, "non_spatial_val": 0.9, "complex_val": 0.96}
"""Smallest shares of prompts in which a skill is found; where none is named, all."""


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public prompt lists are not here (../shared/data)")
def test_every_benchmark_prompt() -> None:
    """GenEval, PartiPrompts and T2I-CompBench: what is found differs from the prompt, and how often something is."""
    for name, prompts in benchmarks().items():
        every = Skills()(prompts, range(len(prompts)))
        for prompt, variants in zip(prompts, every, strict=True):
            assert all(text.split() and text.split() != prompt.split() for text, _ in variants)
            assert len({text for text, _ in variants}) == len(variants) <= 3
        assert sum(map(bool, every)) >= LEAST.get(name, 1.0) * len(prompts), name
