"""Finds the files of a source, opens them, and reads them a row at a time."""

import csv
import glob
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from ddspo.errors import InputError, quoted
from ddspo.places import PACKAGE, local
from ddspo.rows import Row, json_row

Rows = Iterator[tuple[str, Row]]
"""Where a row is, for messages, and the row."""


class Columns(NamedTuple):
    """Columns that a file must have, and those that are read if it has them; None: all that JSON has words for."""

    needed: frozenset[str]
    read: frozenset[str] | None = None


COMPRESSED = (".gz", ".bz2", ".xz")
_BUFFER = 1 << 20
_AT_ONCE = 1024


def is_url(path: str) -> bool:
    """Whether a path names a file on another machine."""
    return "://" in path and not path.startswith(PACKAGE)


def find(path: str, name: str) -> list[str]:
    """The files that a path means: itself, those of a folder or a glob in order of their names, or a URL.

    Raises:
        InputError: There is none, or one is of no known kind; `name` is the key that the path came from.
    """
    if is_url(path):
        try:
            netloc = urlsplit(path).netloc
        except ValueError as error:
            raise InputError(f"{name}: {quoted(path)} is no address ({error}): mend it") from None
        if "@" in netloc:
            raise InputError(f"{name}: a password in a URL would end in every report: take it out")
        found = [path]
    else:
        place = local(path) or Path(path)
        if place.is_dir():
            found = sorted(str(each) for each in place.rglob("*") if each.is_file() and _readable(each, place))
        elif place.is_file():
            found = [str(place)]
        else:
            matching = glob.glob(os.path.expanduser(path), recursive=True)
            found = sorted(each for each in matching if Path(each).is_file())
    if not found:
        raise InputError(f"{name}: no file {path}: check the path (relative ones start where you run the command)")
    for each in found:
        if suffix(each) not in READERS:
            raise InputError(f"{name}: {each}: not a kind of file that is read here: give {_KINDS}")
    return found


def fingerprint(paths: Collection[str]) -> str:
    """A hash of what local files hold, in their order."""
    total = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def read(path: str, columns: Columns) -> Rows:
    """The rows of one file.

    Args:
        path: A file, or the URL of one.
        columns: Which of its columns.

    Raises:
        InputError: The file cannot be opened or read, or lacks a column; says where.
    """
    try:
        yield from READERS[suffix(path)](path, columns)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}): save it as UTF-8") from None
    except (OSError, EOFError, zlib.error, LZMAError, pa.ArrowException, *_network_errors()) as error:
        raise InputError(f"{path}: cannot be read ({reason(error)}): check the file") from None


def reason(error: Exception) -> str:
    """What an error says, in a line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def present(value: Any) -> Any:
    """A value without what JSON has no word for, and without nulls, which Arrow puts where a row has no such key."""
    if isinstance(value, Mapping):
        return {key: present(each) for key, each in value.items() if isinstance(each, str | int | float | list | dict)}
    return [present(each) for each in value] if isinstance(value, list) else value


def has_columns(path: str, columns: Columns, found: Collection[str]) -> None:
    """Refuse a table that lacks what is needed.

    Raises:
        InputError: It does; names what there is.
    """
    missing = sorted(columns.needed - set(found))
    if missing:
        there = ", ".join(map(repr, found))
        raise InputError(f"{path}: no column {quoted(missing[0])}: there are {there:.300}")


def _network_errors() -> tuple[type[Exception], ...]:
    from aiohttp import ClientError

    return (ClientError,)


def suffix(path: str) -> str:
    """The suffix that says what is in a file, without that of its compression."""
    name = Path(urlsplit(path).path if is_url(path) else path)
    return (Path(name.stem) if name.suffix in COMPRESSED else name).suffix.lower()


def _readable(path: Path, folder: Path) -> bool:
    """Of a folder only what is certainly prompts is read: no hidden files, and none without a known suffix."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and suffix(str(path)) in READERS.keys() - {""}


def _open(path: str, compression: str | None = None) -> IO[bytes]:
    if not is_url(path):  # what a file here is called is never read as a URL, whoever named it
        return LocalFileSystem().open(path, "rb", compression=compression)
    try:
        system, name = fsspec.url_to_fs(path)
        return system.open(name, "rb", compression=compression)
    except Exception as error:  # each kind of place has a package of its own, which may be missing, and its own errors
        raise InputError(
            f"{path}: cannot be read ({reason(error)}): check the address, or give a file of this machine"
        ) from None


@contextmanager
def _text(path: str) -> Iterator[IO[str]]:
    """A file as UTF-8, in which only a line feed ends a line."""
    with (
        _open(path, compression="infer") as file,
        io.TextIOWrapper(file, encoding="utf-8-sig", newline="\n") as text,
    ):
        yield text


def _lines(path: str, columns: Columns) -> Rows:
    has_columns(path, columns, ["prompt"])
    with _text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", {"prompt": line.strip()}


def _jsonl(path: str, columns: Columns) -> Rows:
    with _text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}:{number}"
                yield where, json_row(line, where)


def _csv(path: str, columns: Columns) -> Rows:
    with _text(path) as file:
        table = csv.reader(file, strict=True, delimiter="\t" if suffix(path) == ".tsv" else ",")
        try:
            head = next(table, [])
            has_columns(path, columns, head)
            for values in table:
                if len(values) != len(head) and values:
                    raise InputError(
                        f"{path}:{table.line_num}: {len(values)} fields under {len(head)} columns: mend it"
                    )
                if values:
                    yield f"{path}:{table.line_num}", dict(zip(head, values, strict=True))
        except csv.Error as error:
            raise InputError(f"{path}:{table.line_num}: no CSV ({error}): mend it") from None


def _parquet(path: str, columns: Columns) -> Rows:
    with _open(path) as file:
        table = pq.ParquetFile(file, buffer_size=_BUFFER)
        schema = table.schema_arrow
        has_columns(path, columns, schema.names)
        chosen = columns.read
        names = [each.name for each in schema if (_plain(each.type) if chosen is None else each.name in chosen)]
        number = 0
        for batch in table.iter_batches(_AT_ONCE, columns=names):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", present(row)


def _plain(kind: pa.DataType) -> bool:
    """Whether JSON has words for a type: no bytes, no dates."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _plain(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_plain(kind.field(place).type) for place in range(kind.num_fields))
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating)
    return any(test(kind) for test in (*tests, pa.types.is_boolean, pa.types.is_null))


READERS: dict[str, Callable[[str, Columns], Rows]] = {
    **dict.fromkeys((".txt", ""), _lines),
    **dict.fromkeys((".jsonl", ".ndjson"), _jsonl),
    **dict.fromkeys((".csv", ".tsv"), _csv),
    **{".parquet": _parquet},
}
_KINDS = "text (.txt), JSONL (.jsonl), CSV (.csv, .tsv) or parquet (.parquet)"
