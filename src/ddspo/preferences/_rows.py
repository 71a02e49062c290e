"""Rows of JSON, JSONL, CSV and parquet files and of `datasets` ids, one after the other: no file is held whole."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from ddspo.errors import InputError
from ddspo.parquet import open_parquet, parquet_rows
from ddspo.preferences._sides import COLUMNS
from ddspo.rows import Row, json_row

AT_ONCE = 64
"""Rows of a parquet file that are in memory at a time; they hold two images each."""
CHUNK, LONGEST = 2**20, 2**26
"""Characters of a JSON file that are read at a time, and that one item of a list may have at most."""


class Found(NamedTuple):
    """A row, where it is for messages, and the folder that its paths start from (none on the hub)."""

    place: str
    row: Row
    root: Path | None


class LeftOut(NamedTuple):
    """What does not become a pair: where it is, one of few reasons, and what was found."""

    place: str
    reason: str
    detail: str


def file_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Found | LeftOut]:
    """Rows of a file by its ending: .parquet, .csv, .jsonl, or .json (a list of objects, or one object a line).

    Args:
        path: The file.
        columns: Columns of a parquet file that are read; None: all.

    Raises:
        InputError: The file cannot be read as what its ending says.
    """
    if path.suffix == ".parquet":
        yield from _parquet(path, columns)
        return
    if path.suffix not in (".csv", ".jsonl", ".json"):
        raise InputError(f"dataset.source: {path}: give a .parquet, .csv, .jsonl or .json file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _text(path, file)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start} of what was read: save it as UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path}: no CSV: {error}") from None


def count_rows(paths: Sequence[Path]) -> int | None:
    """How many rows files have, where that costs nothing."""
    if not all(path.suffix == ".parquet" for path in paths):
        return None
    return sum(open_parquet(path, str(path))[0].metadata.num_rows for path in paths)


def hub_rows(name: str, split: str) -> Iterator[Found]:
    """Rows of a `datasets` id, streamed; images stay as they were encoded.

    Raises:
        InputError: It cannot be reached or has no such split.
    """
    import datasets  # costs seconds, and only this needs it

    try:
        stream = datasets.load_dataset(name, split=split, streaming=True)
        for number, row in enumerate(stream.decode(False)):
            yield Found(f"{name}:{number}", row, None)
    except Exception as error:  # the hub's client and its file systems raise a dozen types
        reason = _first(error) or type(error).__name__
        raise InputError(
            f"dataset.source {name}: no such file or folder here, and the hub did not give its {split} "
            f"({reason[:160]}): check the name and the network; the same command goes on where it was"
        ) from None


def _text(path: Path, file: TextIO) -> Iterator[Found | LeftOut]:
    if path.suffix == ".csv":
        for number, row in enumerate(csv.DictReader(file), start=1):
            yield Found(f"{path.name}:{number}", row, path.parent)
    elif path.suffix == ".json" and _is_list(file):
        for number, item in enumerate(_items(path, file)):
            yield _object(f"{path.name}:{number}", item, path)
    else:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _line(f"{path.name}:{number}", line, path)


def _is_list(file: TextIO) -> bool:
    """Whether the first mark is a bracket; leaves the file at its start."""
    start = file.read(CHUNK).lstrip()[:1]
    file.seek(0)
    return start == "["


def _items(path: Path, file: TextIO) -> Iterator[Any]:
    """Items of a JSON list, with one chunk of it in memory."""
    decoder, text, at = json.JSONDecoder(), file.read(CHUNK).lstrip()[1:], 0
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        try:
            item, at = decoder.raw_decode(text, at)
            yield item
        except (ValueError, RecursionError) as error:
            if text[at : at + 1] == "]":
                return
            more = file.read(CHUNK)
            if not more or len(text) - at > LONGEST or isinstance(error, RecursionError):
                raise InputError(f"{path}: no whole JSON list: broken or cut off ({error})") from None
            text, at = text[at:] + more, 0


def _line(place: str, line: str, path: Path) -> Found | LeftOut:
    try:
        return Found(place, json_row(line, place), path.parent)
    except InputError as error:
        return LeftOut(place, COLUMNS, str(error))


def _object(place: str, item: Any, path: Path) -> Found | LeftOut:
    if isinstance(item, dict):
        return Found(place, item, path.parent)
    return LeftOut(place, COLUMNS, f"{type(item).__name__} in place of an object")


def _parquet(path: Path, columns: Sequence[str] | None) -> Iterator[Found]:
    table, known = open_parquet(path, str(path))
    wanted = [name for name in columns if name in known] if columns else None
    for number, row in enumerate(parquet_rows(table, str(path), wanted, AT_ONCE)):
        yield Found(f"{path.name}:{number}", row, path.parent)


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
