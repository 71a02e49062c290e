"""Plain data: reads JSONL, one row in memory at a time, and tells two trees apart."""

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ddspo.errors import InputError

Row = dict[str, Any]


def each_row(path: Path) -> Iterator[Row]:
    """Rows of a JSONL file, one in memory at a time.

    Raises:
        InputError: A line is not a JSON object; names the file and the line.
    """
    for number, line in _lines(path):
        yield json_row(line, f"{path}:{number}")


def read_rows(path: Path) -> list[Row]:
    """Rows of a JSONL file; raises as `each_row` does."""
    return list(each_row(path))


class AnyRows:
    """Rows of a JSONL file by their places, counted from 0; 8 bytes of each are in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return len(self._starts)

    def take(self, places: Iterable[int]) -> Iterator[Row]:
        """Some rows; raises as `each_row` does."""
        with self.path.open("rb") as file:
            for place in places:
                file.seek(self._starts[place])
                where = f"{self.path}: row {place + 1}"
                yield json_row(_text(file.readline(), where), where)

    @cached_property
    def _starts(self) -> "array[int]":
        """Bytes before each line that is not blank."""
        starts, start = array("q"), 0
        with self.path.open("rb") as file:
            for line in file:
                if line.strip():
                    starts.append(start)
                start += len(line)
        return starts


def some_rows(path: Path, count: int) -> list[Row]:
    """At most `count` rows of a JSONL file, evenly spaced from the first to the last."""
    rows = AnyRows(path)
    wanted = min(count, len(rows))
    return list(rows.take(sorted({index * (len(rows) - 1) // max(wanted - 1, 1) for index in range(wanted)})))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers; only a line feed ends one, others may be part of a text."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _text(line, f"{path}:{number}")


def _text(line: bytes, where: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise InputError(f"{where}: no UTF-8: write the file anew in it") from None


def json_row(line: str, where: str) -> Row:
    """The JSON object of a line.

    Raises:
        InputError: It is none; `where` says where the line is.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg}): write one object a line") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: JSON that cannot be read ({error}): write one plain object a line") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: {type(row).__name__} in place of an object: write one {{...}} a line")
    return row


def read_json(path: Path, mend: str) -> Row:
    """The object of a JSON file that this library wrote.

    Raises:
        InputError: There is no such file, or it is damaged; `mend` says what to do.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: {mend}") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path}: damaged: {mend}")
    return found


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Dotted names of what differs between two trees of plain data."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in old.keys() | new.keys():
            yield from differences(old.get(name), new.get(name), f"{path}.{name}" if path else str(name))
    elif old != new:
        yield path
