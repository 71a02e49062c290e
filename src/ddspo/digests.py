"""What a file or a folder is, whatever it is called and wherever it lies: a digest of what it holds.

A large file is read once: its SHA-256 is kept in `~/.cache/ddspo` (or `$XDG_CACHE_HOME/ddspo`) beside the size, times
and inode that it had, and holds as long as they do.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ddspo.errors import InputError
from ddspo.files import write_json
from ddspo.places import cache

LARGE = 16 * 2**20
"""Bytes from which on reading a file again costs more than it is worth."""
YOUNG = 2e9
"""Nanoseconds in which a file may change once more without another time: what is so young is not kept."""
LENGTH = 16
"""Characters of an identity."""


def file_identity(path: Path) -> str:
    """A short digest of a file's content, or of the names and contents of a folder's files.

    Files and folders whose names begin with a dot are no part of it. The same content elsewhere has the same one.

    Raises:
        InputError: There is no such file or folder, or it cannot be read.
    """
    try:
        files = list(_visible(path)) if path.is_dir() else None
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from None
    return digest_of(path)[:LENGTH] if files is None else files_identity(path, files)


def files_identity(folder: Path, files: Iterable[Path]) -> str:
    """A short digest of the names, relative to a folder, and the contents of some of its files.

    Raises:
        InputError: One cannot be read.
    """
    named = sorted((path.relative_to(folder).as_posix(), path) for path in files)
    return hashlib.sha256(json.dumps([(name, digest_of(path)) for name, path in named]).encode()).hexdigest()[:LENGTH]


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, kept from an earlier reading if it is large and has not changed since.

    Raises:
        InputError: It cannot be read, or is no file.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file or folder" if not path.exists() else f"{path}: no ordinary file")
        return _kept(path) if path.stat().st_size >= LARGE else _read(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _visible(folder: Path) -> Iterable[Path]:
    for place, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if name[0] != "."]
        yield from (Path(place) / name for name in names if name[0] != "." and (Path(place) / name).is_file())


def _unreadable(error: OSError) -> None:
    raise error


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kept(path: Path) -> str:
    note, state = _note(path), _state(path)
    if note is None:
        return _read(path)
    found = _noted(note)
    if found.get("state") == state and isinstance(found.get("sha256"), str):
        return str(found["sha256"])
    digest = _read(path)
    if _state(path) == state and time.time_ns() - max(state[1:3]) > YOUNG:
        with suppress(OSError):  # a home that cannot be written, or a full disk: the file is read again next time
            write_json(note, {"state": state, "sha256": digest})
    return digest


def _state(path: Path) -> list[int]:
    """Changes when the content does: the time of a change of the inode cannot be set back, as that of a write can."""
    state = path.stat()
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def _note(path: Path) -> Path | None:
    """Where the digest of a file is kept: a file of its own, so that no two processes write into one another's."""
    try:
        kept = cache() / "digests"
    except RuntimeError:  # a user without a home
        return None
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return kept / f"{name}.json"


def _noted(note: Path) -> dict[str, object]:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or a damaged one: as if there were none
        return {}
    return found if isinstance(found, dict) else {}
