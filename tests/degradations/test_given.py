"""Variants that come with the prompts."""

from typing import Any

import pytest

from ddspo.degradations.base import Degraded
from ddspo.degradations.given import Given
from ddspo.errors import InputError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a cat", [("a cat", "given")]),
        (["a cat", " a  cat", "cat "], [("a cat", "given"), ("cat", "given")]),
        ([{"text": "a cat", "kind": "remove_words"}, {"text": "cat"}], [("a cat", "remove_words"), ("cat", "given")]),
        ([None, "", " ", "a red  cat"], []),
        (None, []),
        ([], []),
    ],
)
def test_variants_of_a_row(value: Any, expected: list[tuple[str, str]]) -> None:
    """Empty ones, the prompt itself and repetitions are left out; a run's own variants keep their kind."""
    rows = [{"id": "p", "prompt": "a red cat", "degraded": value}, {"id": "q", "prompt": "a dog", "worse": "dog"}]
    assert Given().of_rows(rows, [0, 0]) == [[Degraded(*each) for each in expected], []]
    assert Given("worse").of_rows(rows, [0, 0]) == [[], [Degraded("dog", "given")]]


@pytest.mark.parametrize("value", [3, ["a cat", 3], {"text": 3}, [["a cat"]], [{"text": ["a"]}]])
def test_what_is_no_text(value: Any) -> None:
    with pytest.raises(InputError, match=r"^prompts: p: .* under 'degraded': give a text, or a list of texts$"):
        Given().of_rows([{"id": "p", "prompt": "a red cat", "degraded": value}], [0])
