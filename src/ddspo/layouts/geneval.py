"""GenEval's: a folder a prompt, 00000/metadata.jsonl beside 00000/samples/0000.png, 0001.png and so on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddspo.errors import InputError, shortened
from ddspo.files import write_rows
from ddspo.judging.pictures import BOOKKEEPING, Gallery, Picture
from ddspo.judging.sheets import METADATA
from ddspo.layouts.base import SAMPLES, Layout, Opened, fault_of, files, numbered, write_png
from ddspo.rows import Row, read_rows


@dataclass(frozen=True)
class GenEvalLayout(Layout):
    """As the official generation scripts write it, and the official evaluator reads it: names are numbers."""

    writes = True

    def recognises(self, folder: Path) -> bool:
        """There is a numbered folder with one of the two."""
        return any((each / METADATA).exists() or (each / SAMPLES).is_dir() for each in _numbered(folder))

    def read(self, folder: Path) -> Opened:
        """Every numbered folder's row, for all images of its samples/."""
        found: list[tuple[Path, Row]] = []
        faults = []
        for each in _numbered(folder):
            row = _row(each / METADATA)
            if isinstance(row, str):
                faults.append(row)
                continue
            images = (
                [path for path in files(each / SAMPLES) if path.stem.isdecimal()] if (each / SAMPLES).is_dir() else []
            )
            if not images:
                faults.append(f"{shortened(str(each / SAMPLES))}: no image: draw some, or take the folder out")
            found += [(path, row) for path in images]
        return Opened([Gallery(folder.name, numbered(found))], faults)

    def write(self, folder: Path, pictures: Sequence[Picture]) -> None:
        """A folder for each prompt, in the order of the first images."""
        prompts = list(dict.fromkeys(picture.item for picture in pictures))
        for number, item in enumerate(prompts):
            mine, place = [picture for picture in pictures if picture.item == item], folder / f"{number:05d}"
            row = {key: value for key, value in mine[0].row.items() if key not in BOOKKEEPING}
            write_rows(place / METADATA, [row])
            for index, picture in enumerate(mine):
                write_png(picture.path, place / SAMPLES / f"{index:04d}.png")


def _row(path: Path) -> Row | str:
    """The row of a prompt, or what is wrong with it."""
    where = shortened(str(path))
    if not path.is_file():
        return f"{where}: missing: give the prompt's row"
    try:
        rows = read_rows(path)
    except InputError as error:
        return str(error)
    return (fault_of(rows[0], where) or rows[0]) if rows else f"{where}: empty: give the prompt's row"


def _numbered(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(each for each in folder.iterdir() if each.name.isdecimal() and each.is_dir())
    except OSError as error:
        raise InputError(f"{shortened(str(folder))}: {error.strerror}") from None
