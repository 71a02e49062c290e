"""How a store is cut into shards, and these into parts: decided when it is begun, and kept beside the shards.

So a run may go on with another batch: how many pairs are made at once is then another matter than what is a part. And
it may grow: the shards that were to be stay as they are, the last and short one too, and what comes is cut anew.
"""

import math
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ddspo.errors import InputError
from ddspo.files import write_json
from ddspo.rows import read_json

NAME = "layout.json"


class Layout(NamedTuple):
    """Pairs of a shard, and of a part of one, and after how many pairs a shard ended because these were all."""

    shard: int
    part: int
    ends: tuple[int, ...] = ()

    def sizes(self, pairs: int) -> list[int]:
        """Pairs of each shard of so many pairs."""
        ends = [0, *(each for each in self.ends if each < pairs), pairs]
        return [
            min(self.shard, end - first) for start, end in pairwise(ends) for first in range(start, end, self.shard)
        ]

    def until(self, pairs: int) -> "Layout":
        """The same, where these are all pairs for now."""
        return self if pairs in self.ends else self._replace(ends=(*self.ends, pairs))

    @property
    def parts(self) -> int:
        """Of a whole shard."""
        return math.ceil(self.shard / self.part)


def layout_of(folder: Path, wanted: Layout) -> Layout:
    """The layout that a store was begun with.

    Raises:
        InputError: It cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        return wanted
    found = read_json(path, "delete it where sample.batch is what it was")
    ends = found.pop("ends", [])
    numbers = [*found.values(), *ends] if isinstance(ends, list) else [0]
    if set(found) != {"shard", "part"} or not all(type(each) is int and each > 0 for each in numbers):
        raise InputError(f"{path}: damaged: delete it where sample.batch is what it was")
    return Layout(**found, ends=tuple(ends))


def keep_layout(folder: Path, layout: Layout) -> None:
    """Write it down; one process does so when a store is begun, or grows."""
    path = folder / NAME
    if not path.exists() or layout_of(folder, layout) != layout:
        write_json(path, layout._asdict())
