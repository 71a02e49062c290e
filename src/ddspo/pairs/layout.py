"""How a store is cut into shards, and these into parts: decided when it is begun, and kept beside the shards.

So a run may go on with another batch: how many pairs are made at once is then another matter than what is a part.
"""

import math
from pathlib import Path
from typing import NamedTuple

from ddspo.errors import InputError
from ddspo.files import write_json
from ddspo.rows import read_json

NAME = "layout.json"


class Layout(NamedTuple):
    """Pairs of a shard, and of a part of one."""

    shard: int
    part: int

    def shards(self, pairs: int) -> int:
        """How many there are of so many pairs."""
        return math.ceil(pairs / self.shard)

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
    if set(found) != {"shard", "part"} or not all(type(each) is int and each > 0 for each in found.values()):
        raise InputError(f"{path}: damaged: delete it where sample.batch is what it was")
    return Layout(**found)


def keep_layout(folder: Path, layout: Layout) -> None:
    """Write it down; one process does so when a store is begun."""
    if not (folder / NAME).exists():
        write_json(folder / NAME, layout._asdict())
