"""Anyone's parquet file is read, or one line says what is wrong with it."""

from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddspo.errors import InputError
from ddspo.parquet import open_parquet, parquet_rows
from ddspo.rows import Row

ROWS = [{"name": f"row {number}", "cell": {"bytes": b"x" * number, "path": None}} for number in range(5)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parquet") / "whole.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2)
    return path


def rows(path: Path, columns: list[str] | None = None) -> list[Row]:
    return list(parquet_rows(open_parquet(path, "here")[0], "here", columns, 2))


def test_rows_in_order(file: Path) -> None:
    assert open_parquet(file, "here")[1] == ["name", "cell"]
    assert rows(file) == ROWS
    assert rows(file, ["name"]) == [{"name": row["name"]} for row in ROWS]


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=4), st.integers(0, 20))
def test_damage_is_one_line(file: Path, changes: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(file.read_bytes())
    for place, change in changes:
        content[place % len(content)] ^= change
    damaged = file.with_name("damaged.parquet")
    damaged.write_bytes(content[: -cut or None])
    with suppress(InputError):
        rows(damaged)


def test_a_name_that_is_no_text(file: Path) -> None:
    """The name of a column, or one inside a struct."""
    for name in (b"cell", b"path"):
        damaged = file.with_name("name.parquet")
        damaged.write_bytes(file.read_bytes().replace(name, b"\xff" * 4))
        with pytest.raises(InputError, match=r"^here: no whole parquet file"):
            rows(damaged)


def test_rows_that_are_cut(file: Path) -> None:
    """The end is whole, the second group of rows is not."""
    content = bytearray(file.read_bytes())
    place = content.index(b"row 2")
    content[place - 30 : place + 30] = b"\xff" * 60
    file.with_name("cut.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"^here: damaged after row \d"):
        rows(file.with_name("cut.parquet"))
