"""Files that appear under their final name only when they are whole: written beside it, then renamed."""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

import psutil

_HOST = socket.gethostname()
PARTIAL = ".*.partial"
"""Names of what is being written, or was when its writer died."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what the block writes there, a file or a folder, takes its place.

    Where the block fails, nothing is left of it, and `path` is as it was. Others may read what was written as far as
    the umask lets them, whatever mode its writer chose.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.partial")
    remove(partial)  # of a dead process of the same number
    try:
        yield partial
        _readable(partial)
        if path.is_dir():
            before = partial.with_name(f".before{partial.name}")
            os.replace(path, before)
            os.replace(partial, path)
            remove(before)
        else:
            os.replace(partial, path)
    except BaseException:
        remove(partial)
        raise


def replace_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, then rename it into place, as `replacing` does."""
    with replacing(path) as partial:
        write(partial)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Delete what writers that died left in a folder and below; nobody may be writing there."""
    for path in list(folder.rglob(PARTIAL)):
        remove(path)


def tidy_beside(path: Path) -> None:
    """Delete what writers of one path that died on this machine left beside it; others may be writing there."""
    for partial in path.parent.glob(f".{escape(path.name)}.{escape(_HOST)}.*.partial"):
        number = partial.name.split(".")[-2]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            remove(partial)


def _readable(path: Path) -> None:
    """The mode that a new file has, which libraries that write through temporary files forget."""
    mask = os.umask(0)
    os.umask(mask)
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if not file.is_symlink():
            file.chmod((0o777 if file.is_dir() else 0o666) & ~mask)


def settle_header(path: Path) -> None:
    """Put the header of a safetensors file into order, whose writer leaves it to chance: same weights, same bytes."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        ordered = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
        if len(ordered) > length:
            raise ValueError(f"{path}: its header grows when it is put into order")
        file.seek(8)
        file.write(ordered.ljust(length))


def write_text(path: Path, text: str) -> None:
    """Write a whole text file or nothing."""
    replace_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a whole JSON file or nothing."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole JSONL file or nothing; one row is in memory at a time."""
    with writing_rows(path) as write:
        for row in rows:
            write(row)


@contextmanager
def writing_rows(path: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yields what adds a row to a JSONL file, which appears when the block ends without an error."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        yield lambda row: print(json.dumps(row, ensure_ascii=False), file=file)
