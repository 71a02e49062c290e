"""Rows of tar files as WebDataset lays them out: the files of one name are a row, by their endings."""

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ddspo.errors import InputError, shortened
from ddspo.preferences._rows import Found, LeftOut
from ddspo.rows import Row

LARGEST = 2**28
"""Bytes of a file that is read: more than any image has that is decoded."""
TEXTS = ("txt", "caption")
LARGE, UNREADABLE = "too large a file", "text that is not UTF-8"


def tars_of(source: str) -> list[Path]:
    """The tar files of a source: itself, or those in its folder, in the order of their names."""
    path = Path(source).expanduser()
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    return [path] if path.suffix == ".tar" and path.is_file() else []


def tar_rows(path: Path) -> Iterator[Found | LeftOut]:
    """Rows {ending: text or bytes} of a tar file, one in memory at a time; nothing is unpacked.

    Raises:
        InputError: It is no tar file, or cut off.
    """
    name, row, fault = "", Row(), ""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                own, _, ending = PurePosixPath(member.name).name.partition(".")
                own = str(PurePosixPath(member.name).parent / own)
                if not member.isfile():
                    continue
                if own != name and row:
                    yield _row(path, name, row, fault)
                    row, fault = {}, ""
                name = own
                row[ending.lower()], fault = _content(tar, member, ending.lower(), fault)
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = shortened(str(error))
        raise InputError(f"dataset.source: {path}: no whole tar file ({reason}): get it anew") from None
    if row:
        yield _row(path, name, row, fault)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, ending: str, fault: str) -> tuple[str | bytes | None, str]:
    """What a file holds, and what is wrong with its row so far."""
    if member.size > LARGEST:
        return None, LARGE
    file = tar.extractfile(member)
    assert file  # it is a plain file
    content = file.read()
    if ending not in TEXTS:
        return content, fault
    try:
        return content.decode().strip(), fault
    except UnicodeDecodeError:
        return None, UNREADABLE


def _row(path: Path, name: str, row: Row, fault: str) -> Found | LeftOut:
    place = f"{path.name}:{name}"
    return LeftOut(place, fault, "") if fault else Found(place, row, None)
