"""Lists of prompts that should share nothing."""

import pytest

from ddspo.errors import InputError
from ddspo.prompts.overlaps import contamination, overlaps
from ddspo.rows import Row


def items(validation: list[str], evaluation: list[str]) -> dict[str, list[Row]]:
    lists = {"validation": validation, "evaluation": evaluation}
    return {split: [{"prompt": text} for text in texts] for split, texts in lists.items()}


def test_lists_that_share_nothing() -> None:
    assert overlaps(["a", "b"], items(["c"], ["d", "e"])) == []
    assert overlaps([], items(["c"], ["d"])) == []
    assert overlaps(["a"], {"evaluation": [{"prompt": "b"}]}) == []


def test_prompts_that_are_there_twice_are_counted() -> None:
    """But for spaces and case: of three evaluation prompts one is validated on, two are trained on."""
    found = overlaps(["A cat", "two dogs", "owl"], items(["a  CAT", "a bird"], ["a bird", "Two  dogs", "OWL"]))
    assert [line.partition(":")[0] for line in found] == [
        "evaluate.prompts",
        "evaluate.prompts",
        "evaluate.validation",
    ]
    assert "1 of 3 are in evaluate.validation too, for example 'a bird'" in found[0]
    assert "2 of 3 are in prompts too, for example 'Two  dogs'" in found[1]
    assert "1 of 2 are in prompts too, for example 'a  CAT'" in found[2]


def test_an_evaluation_that_holds_nothing_out_is_refused() -> None:
    with pytest.raises(InputError, match=r"evaluate\.prompts: all 2 are in evaluate\.validation too"):
        overlaps([], items(["a", "b", "c"], ["B", " a"]))
    with pytest.raises(
        InputError, match=r"evaluate\.prompts: all 1 are in prompts too, so that nothing would be held"
    ):
        overlaps(["a", "b"], items(["c"], ["a"]))
    assert len(overlaps(["a", "b"], items(["a", "b"], ["c"]))) == 1


def test_contamination_is_counted_over_all_that_was_used() -> None:
    """But for case, spaces and punctuation; each prompt of the evaluation counts, an example is given once."""
    used = (text for text in ["A photo of: two DOGS!", "a  cat.", "\u72ac", "an owl"] * 1000)
    held_out = ["a photo of two dogs", "A cat", "a cat", "a cat on a mat", "\u72ac", "snail", "an-owl", "?"]
    assert contamination(used, held_out) == {
        "prompts": 5,
        "of": 8,
        "examples": ["a photo of two dogs", "A cat", "a cat"],
    }
    assert contamination([], held_out) == {"prompts": 0, "of": 8, "examples": []}
    assert contamination(["!"], ["?"])["prompts"] == 0
