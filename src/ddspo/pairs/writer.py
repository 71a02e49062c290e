"""Writes a folder of shards part by part, so that an interruption costs the part in flight and nothing more.

A shard is made of parts, each written whole under the name of its own checksum. When a shard's last part is there, its
entry goes to the index, then the shard appears, then its parts go: at every moment either the parts or the shard are
whole, and the next run finds out which by checksums. Each process owns whole shards, and keeps an index of its own,
which `finish` merges into index.json.
"""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from ddspo.errors import InputError
from ddspo.files import replace_atomically, tidy, write_json
from ddspo.maths.pair import Pair
from ddspo.pairs.data import States
from ddspo.pairs.shards import Damaged, Entry, Origin, digest, encode, read_shard, table_of
from ddspo.rows import Row

INDEX = "index.json"
PARTS = ".parts"
NAME = re.compile(r"\d{6,}\.parquet")


@dataclass
class PairWriter:
    """Writes some shards of a folder; what is there already is kept if it is whole and of the same origin.

    Attributes:
        folder: Where the shards go.
        origin: How they are made.
        process: Which of several writers this is; no two may write one shard.
    """

    folder: Path
    origin: Origin
    process: int = 0
    damaged: list[str] = field(default_factory=list, init=False)
    """What was found damaged, and is to be made again."""

    def __post_init__(self) -> None:
        self._known = read_index(self.folder)
        self._own: dict[str, Entry] = {}

    def missing(self, shard: int, parts: int) -> list[int] | None:
        """Which parts of a shard, of so many, must still be made before it can be closed; None of a whole shard.

        Raises:
            InputError: The shard was made otherwise.
        """
        path = self.folder / name_of(shard)
        if path.exists():
            try:
                read_shard(path, self._known.get(path.name, Entry(0, "")), self.origin)
                return None
            except Damaged as error:
                self.damaged.append(str(error))
                path.unlink()
        return [part for part in range(parts) if not self._part(shard, part)]

    def add(
        self, shard: int, part: int, rows: Sequence[Row], latents: Pair[Tensor], states: States | None = None
    ) -> None:
        """Keep a part: rows {id, prompt, ...} with their latents, [N, *shape] each; there may be none.

        Raises:
            InputError: A latent is not finite, or of another shape.
        """
        data = encode(table_of(self.origin, rows, latents, states))
        path = self.folder / PARTS / f"{shard:06d}-{part:06d}-{digest(data)}.parquet"
        replace_atomically(path, lambda partial: partial.write_bytes(data))

    def close(self, shard: int, parts: int) -> None:
        """Merge all parts of a shard into it. What is written depends on the rows alone, not on who made them when."""
        files = [self._part(shard, part) for part in range(parts)]
        table = pa.concat_tables(pq.read_table(path) for path in files if path)
        data, name = encode(table), name_of(shard)
        self._own[name] = Entry(table.num_rows, digest(data))
        write_index(self.folder / f"index-{self.process}.json", self._own)
        replace_atomically(self.folder / name, lambda partial: partial.write_bytes(data))
        for path in files:
            if path:
                path.unlink()

    def _part(self, shard: int, part: int) -> Path | None:
        """A part that is whole; whatever else has its name is removed."""
        for path in (self.folder / PARTS).glob(f"{shard:06d}-{part:06d}-*.parquet"):
            data = path.read_bytes()
            if digest(data) == path.stem.rpartition("-")[2]:
                schema = pq.read_schema(pa.BufferReader(data))
                if schema.equals(self.origin.schema, check_metadata=True):
                    return path
            path.unlink()
        return None


def begin(folder: Path, shards: int | None = None) -> None:
    """Tidy up after an interruption; one process does so before any writes.

    Raises:
        InputError: There is a shard beyond those that are to be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if shards is not None:
        _refuse_others(folder, shards)
    tidy(folder)
    _merge(folder)


def finish(folder: Path, shards: int) -> dict[str, Entry]:
    """Merge the index of so many shards, and return it; one process does so after all have written.

    Raises:
        InputError: There is a shard that nobody made.
    """
    _refuse_others(folder, shards)
    _merge(folder)
    entries = read_index(folder)
    entries = {name: entries[name] for name in map(name_of, range(shards))}
    write_index(folder / INDEX, entries)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    return entries


def name_of(shard: int) -> str:
    """The file of a shard."""
    return f"{shard:06d}.parquet"


def read_index(folder: Path) -> dict[str, Entry]:
    """What was written: {file name: (rows, sha256)}, what is not merged yet overriding the rest.

    Raises:
        InputError: An index cannot be read.
    """
    entries: dict[str, Entry] = {}
    for path in [folder / INDEX, *sorted(folder.glob("index-*.json"))]:
        if path.exists():
            try:
                found = {name: Entry(**entry) for name, entry in json.loads(path.read_bytes()).items()}
            except (ValueError, TypeError, AttributeError):
                raise InputError(f"{path}: no index of pairs: delete it, and make the pairs again") from None
            entries |= {name: entry for name, entry in found.items() if NAME.fullmatch(name)}
    return entries


def write_index(path: Path, entries: dict[str, Entry]) -> None:
    """Write an index in the order of the shards."""
    write_json(path, {name: entries[name]._asdict() for name in sorted(entries)})


def _refuse_others(folder: Path, shards: int) -> None:
    wanted = {name_of(shard) for shard in range(shards)}
    for path in sorted(folder.glob("*.parquet")):
        if path.name not in wanted:
            raise InputError(f"{path}: not one of these {shards} shards: move it, or choose another name=...")


def _merge(folder: Path) -> None:
    parts = sorted(folder.glob("index-*.json"))
    if parts:
        write_index(folder / INDEX, read_index(folder))
        for path in parts:
            path.unlink()
