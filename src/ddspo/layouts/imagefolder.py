"""A plain folder of images with metadata.jsonl (file_name, prompt, ...), or with NAME.txt beside NAME.png."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ddspo.errors import InputError, quoted, shortened
from ddspo.judging.pictures import Gallery
from ddspo.judging.sheets import METADATA
from ddspo.layouts.base import SUFFIXES, Layout, Opened, fault_of, files, numbered
from ddspo.rows import Row, json_row

LONGEST = 2**16
"""Bytes of a text file that holds a prompt."""
CAPTIONS = ("prompt", "text")
"""Columns of the prompt, the first that is there."""


@dataclass(frozen=True)
class ImageFolder(Layout):
    """The convention of `datasets`' imagefolder; what else a row holds is the metrics' to read."""

    def recognises(self, folder: Path) -> bool:
        """There is metadata.jsonl, or an image with a text beside it."""
        return (folder / METADATA).is_file() or any(path.with_suffix(".txt").is_file() for path in files(folder))

    def read(self, folder: Path) -> Opened:
        """Rows of metadata.jsonl in their order, or images with texts by name; an image without either is a fault."""
        found: list[tuple[Path, Row]] = []
        faults: list[str] = []
        for each in _listed(folder) if (folder / METADATA).is_file() else _beside(folder):
            if isinstance(each, str):
                faults.append(each)
            else:
                found.append(each)
        return Opened([Gallery(folder.name, numbered(found))], faults)


def _listed(folder: Path) -> Iterator[tuple[Path, Row] | str]:
    path = folder / METADATA
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _of_line(folder, line, f"{shortened(str(path))}:{number}")


def _of_line(folder: Path, line: bytes, where: str) -> tuple[Path, Row] | str:
    """An image and its row, or what is wrong with either."""
    try:
        row = json_row(line.decode(), where)
    except UnicodeDecodeError:
        return f"{where}: no UTF-8: write the file anew in it"
    except InputError as error:
        return str(error)
    name = row.get("file_name")
    if not isinstance(name, str) or not name.lower().endswith(SUFFIXES) or "\0" in name:
        return f"{where}: file_name {quoted(name, 60)} names no image: give its path inside the folder"
    image, top = (folder / name).resolve(), folder.resolve()
    if not image.is_relative_to(top):
        return f"{where}: file_name {quoted(name, 60)} leads out of the folder: give a path inside it"
    if not image.is_file():
        return f"{where}: no file {quoted(name, 60)}: take the row out, or add the image"
    caption = next((key for key in CAPTIONS if key in row), "prompt")
    row = {key: value for key, value in row.items() if key != caption} | {"prompt": row.get(caption)}
    return fault_of(row, where) or (folder / name, row)


def _beside(folder: Path) -> Iterator[tuple[Path, Row] | str]:
    for path in files(folder):
        text = path.with_suffix(".txt")
        if not text.is_file():
            yield f"{shortened(str(path))}: no {quoted(text.name, 60)} beside it with its prompt: add it"
            continue
        try:
            prompt = text.read_bytes()[:LONGEST].decode().strip()
        except (OSError, UnicodeDecodeError):
            yield f"{shortened(str(text))}: no UTF-8 text: write it anew"
            continue
        yield fault_of({"prompt": prompt}, shortened(str(text))) or (path, {"prompt": prompt})
