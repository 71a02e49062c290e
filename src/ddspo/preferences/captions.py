"""Images with captions and no preference: a folder, a table, or a `datasets` id."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, ClassVar

from typing_extensions import Doc

from ddspo.maths.pair import Pair
from ddspo.preferences._rows import Found, LeftOut, count_rows, file_rows
from ddspo.preferences._sides import SUFFIXES, side_of
from ddspo.preferences._tables import check_columns, column_of, table_rows, table_size
from ddspo.preferences._tars import tar_rows, tars_of
from ddspo.preferences.base import PROMPT, Preference, Preferences, first_of, prompt_of

IMAGES = ("image", "file_name", "jpg", "jpeg", "png", "webp", "path")
CAPTIONS = ("caption", "text", "prompt", "txt")
TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
BESIDE = (".txt", ".caption")


@dataclass(frozen=True)
class Captions(Preferences):
    """An image and its caption, which the recipe's degradation makes poorer: nothing is sampled.

    The source is a folder of images with `NAME.txt` or `NAME.caption` beside each, or with `metadata.jsonl`, .csv or
    .parquet (`file_name` and `text`); a .csv, .json, .jsonl or .parquet file; a folder of `train-*.parquet` files; a
    .tar file or a folder of them, as WebDataset makes them; or a `datasets` id. Paths are relative to the table's file
    and inside its folder.
    """

    alone: ClassVar[bool] = True

    split: Annotated[str, Doc("of a folder of tables or of a `datasets` id")] = "train"
    image: Annotated[
        str | None, Doc("its column; null: the first of image, file_name, jpg, jpeg, png, webp, path")
    ] = None
    caption: Annotated[str | None, Doc("its column; null: the first of caption, text, prompt, txt")] = None

    def check(self, source: str) -> None:
        """Its columns."""
        first = first_of(self.rows(source), source)
        check_columns(source, "captions", first.row, self._columns(first))

    def count(self, source: str) -> int | None:
        """From the names of files, a folder's own list, or the ends of parquet files."""
        table, images = _table(source), _images(source)
        if table:
            return count_rows([table]) or sum(1 for _ in file_rows(table))
        if images or tars_of(source):
            return None if tars_of(source) else len(images)
        return table_size(source, self.split)

    def rows(self, source: str) -> Iterator[Found | LeftOut]:
        """File by file."""
        table, images = _table(source), _images(source)
        if table:
            return file_rows(table)
        if tars_of(source):
            return chain.from_iterable(map(tar_rows, tars_of(source)))
        if images:
            return map(partial(_beside, Path(source).expanduser()), images)
        return table_rows(source, self.split)

    def pairs(self, found: Found) -> Iterator[Preference]:
        """One, of an image with itself."""
        image, caption = self._columns(found).values()
        side = side_of(found.row.get(image), found.root)
        yield Preference(found.place, prompt_of(found.row, caption), Pair(side, side))

    def _columns(self, found: Found) -> dict[str, str]:
        given = {"image": (self.image, IMAGES), "caption": (self.caption, CAPTIONS)}
        return {name: column_of(found.row, own, name, aliases) for name, (own, aliases) in given.items()}


def _table(source: str) -> Path | None:
    """A folder's own list of its images."""
    paths = (Path(source).expanduser() / name for name in TABLES)
    return next((path for path in paths if path.is_file()), None)


def _images(source: str) -> list[Path]:
    """The images of a folder and of those below, in order; none of a file or an id."""
    root = Path(source).expanduser()
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES) if root.is_dir() else []


def _beside(root: Path, image: Path) -> Found | LeftOut:
    """An image and the text that has its name."""
    name = image.relative_to(root).as_posix()
    for path in (image.with_suffix(end) for end in BESIDE):
        if path.is_file():
            try:
                text = path.read_text(encoding="utf-8").strip()
            except UnicodeDecodeError:
                return LeftOut(name, PROMPT, f"{path.name} is not UTF-8")
            return Found(name, {"image": name, "caption": text}, root)
    return LeftOut(name, PROMPT, f"no {image.stem}.txt")
