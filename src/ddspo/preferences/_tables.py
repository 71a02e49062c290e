"""Where a table of rows is: a file, a folder of parquet files, or a `datasets` id."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ddspo.errors import InputError
from ddspo.preferences._rows import Found, LeftOut, count_rows, file_rows, hub_rows
from ddspo.rows import Row


def table_rows(source: str, split: str, columns: Sequence[str] | None = None) -> Iterator[Found | LeftOut]:
    """Rows of a table, file by file in the order of their names.

    Raises:
        InputError: There is no such file, folder or id, or a folder without parquet files of the split.
    """
    files = files_of(source, split)
    if files is None:
        yield from hub_rows(source, split)
        return
    for path in files:
        yield from file_rows(path, columns)


def column_of(row: Row, given: str | None, name: str, aliases: Sequence[str]) -> str:
    """The column that is given, or the first of its usual names that there is; else that of its option."""
    return given or next((alias for alias in aliases if alias in row), name)


def check_columns(source: str, format_: str, row: Row, columns: Mapping[str, str]) -> None:
    """Fail where the first row lacks columns, each under the option that names it.

    Raises:
        InputError: It does.
    """
    for name, column in columns.items():
        if column not in row:
            there, key = ", ".join(map(str, row)), f"dataset.format.{format_}.{name}"
            raise InputError(f"dataset.source {source}: no column {column} but {there}: name it with {key}")


def table_size(source: str, split: str) -> int | None:
    """How many rows a table has, where that costs nothing."""
    files = files_of(source, split)
    return None if files is None else count_rows(files)


def files_of(source: str, split: str) -> list[Path] | None:
    """A table's files here; None: it is an id on the hub."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(
            {*path.rglob(f"{split}-*.parquet"), *path.rglob(f"{split}.parquet"), *path.rglob(f"{split}/*.parquet")}
        )
        if not found:
            raise InputError(
                f"dataset.source {source}: no {split}-*.parquet in this folder: check the path and the split"
            )
        return found
    if source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise InputError(
            f"dataset.source {source}: no file or folder there, and no OWNER/NAME of the hub: check the path"
        )
    return None
