"""JSONL is read and written a row at a time, and whatever text is in it comes back."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddspo.errors import InputError
from ddspo.files import write_rows
from ddspo.rows import AnyRows, each_row, json_row, read_rows, some_rows

SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\r"
"""What `str.splitlines` takes for the end of a line, and JSONL does not."""


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(SEPARATORS))))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back(tmp_path: Path, texts: list[str]) -> None:
    rows = [{"prompt": text} for text in texts]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl") == rows


def test_one_row_at_a_time(tmp_path: Path) -> None:
    """The first row is there before the second line, which is no JSON, is looked at."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{\n')
    rows = each_row(path)
    assert next(rows) == {"a": 1}
    with pytest.raises(InputError, match=r"rows\.jsonl:3: not JSON"):
        next(rows)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(SEPARATORS)), min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_row_is_found_by_its_place(tmp_path: Path, texts: list[str]) -> None:
    """Blank lines are no rows, and a place counts rows."""
    path, rows = tmp_path / "rows.jsonl", [{"prompt": text} for text in texts]
    write_rows(path, rows)
    path.write_bytes(b"\n" + path.read_bytes().replace(b"\n", b"\n \n"))
    found = AnyRows(path)
    assert len(found) == len(rows)
    assert list(found.take(range(len(rows))[::-1])) == rows[::-1]


def test_a_place_of_no_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{\n')
    with pytest.raises(InputError, match=r"rows.jsonl: row 2: not JSON"):
        list(AnyRows(path).take([0, 1]))


def test_a_failure_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"a": 1}])
    with pytest.raises(ZeroDivisionError):
        write_rows(path, ({"a": 1 / n} for n in (2, 0)))
    assert read_rows(path) == [{"a": 1}]


@pytest.mark.parametrize(("count", "places"), [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, list(range(10)))])
def test_some_rows_are_evenly_spaced(tmp_path: Path, count: int, places: list[int]) -> None:
    """Of 10 rows, places i * 9 // (count - 1): 0, 9 of two and 0, 3, 6, 9 of four; more than there are gives all."""
    write_rows(tmp_path / "rows.jsonl", ({"n": n} for n in range(10)))
    assert [row["n"] for row in some_rows(tmp_path / "rows.jsonl", count)] == places
    assert len(some_rows(tmp_path / "rows.jsonl", 50)) == 10


@pytest.mark.parametrize("line", ["[" * 100_000, "9" * 5000, "{", "", "3", "\x00"])
def test_what_is_no_row(line: str) -> None:
    with pytest.raises(InputError, match="here: ") as caught:
        json_row(line, "here")
    assert "\n" not in str(caught.value)
