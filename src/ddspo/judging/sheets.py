"""A folder of drawn images with the rows that they were drawn from: the imagefolder convention, `metadata.jsonl`."""

from pathlib import Path

from ddspo.judging.pictures import Picture
from ddspo.rows import Row, read_rows

METADATA = "metadata.jsonl"


def file_name(item: int, index: int) -> str:
    """Of an image: the number of its prompt, and its number among the images of that prompt."""
    return f"{item:05d}_{index}.png"


def read_sheet(folder: Path) -> list[Picture]:
    """The images of a folder that this library wrote.

    Raises:
        InputError: Its list is gone or damaged.
    """
    return [_picture(folder, row) for row in read_rows(folder / METADATA)]


def _picture(folder: Path, row: Row) -> Picture:
    return Picture(folder / row["file_name"], row, f"{row['item']:05d}", row["index"])
