"""Reads a folder of shards: checks all of it once, and then holds a few shards at a time."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddspo import randomness
from ddspo.errors import InputError
from ddspo.maths.pair import Pair
from ddspo.pairs.data import PairData, Pairs, States, Texts
from ddspo.pairs.marks import LABEL, SCORES, marks_of
from ddspo.pairs.shards import HALF, STATES, Damaged, Entry, Origin, check_origin, numbers_of, read_shard
from ddspo.pairs.writer import read_index
from ddspo.rows import Row

GIB = 2**30
WINDOW = 2.0
"""GiB of shards that are in memory at once, if not told otherwise."""


class Shard(NamedTuple):
    """A shard that is listed and there: its place in the index, how it was made, and its bytes in memory.

    `states_bytes` come on top where the states are read too.
    """

    path: Path
    entry: Entry
    origin: Origin
    bytes: int
    states_bytes: int


@dataclass(frozen=True)
class PairStore(Pairs):
    """The pairs of a folder.

    Attributes:
        shards: Its shards, in order.
        origin: How they were made.
        memory: GiB of shards that may be held at once.
        has_states: Whether the states that the sampler visited are read; checksums read them in any case.
    """

    shards: Sequence[Shard]
    origin: Origin
    memory: float = WINDOW
    has_states: bool = False
    _held: OrderedDict[int, pa.Table] = field(default_factory=OrderedDict, init=False, repr=False, compare=False)

    @classmethod
    def open(
        cls, folder: Path, memory: float = WINDOW, model: str | None = None, *, states: bool = False
    ) -> "PairStore":
        """Find the shards of a folder, all of which must be there and of one origin; contents are not read yet.

        Raises:
            InputError: There are none, one is missing, damaged, foreign or not in the index, or they are of another
                model than is said, or states are to be read and none were kept.
        """
        entries = read_index(folder)
        strange = {path.name for path in folder.glob("*.parquet")} - set(entries)
        if strange:
            raise InputError(f"{folder / min(strange)}: not in index.json, so it is no shard of these pairs: move it")
        shards = [listed(folder / name, entries[name]) for name in sorted(entries)]
        if not sum(shard.entry.rows for shard in shards):
            raise InputError(f"{folder}: no pairs: run `ddspo sample` or `ddspo import` first")
        for shard in shards[1:]:
            check_origin(shard.path, shard.origin, shards[0].origin)
        made = shards[0].origin.made.get("model")
        if model is not None and made != model:
            raise InputError(f"{folder}: pairs of model {made}, not of {model}: make pairs with this one")
        if states and not shards[0].origin.states:
            raise InputError(f"{folder}: no states were kept: sample again with sample.states")
        return cls(shards, shards[0].origin, memory, states)

    def verify(self, shape: Sequence[int], process: int = 0, processes: int = 1) -> None:
        """Read everything once: checksums, rows, texts, finite latents; of several processes each reads its part.

        Raises:
            InputError: Something is wrong, or an id is there twice; names the first place.
        """
        self._check_shape(self.origin.shape, shape)
        for number in range(process, len(self.shards), processes):
            self._read(number)
        seen = np.zeros(len(self), np.int64)
        for shard, first in zip(self.shards, self._starts, strict=True):
            try:
                ids = pq.read_table(shard.path, columns=["id"])["id"].to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise Damaged(f"{shard.path}: no parquet file: {str(error).splitlines()[0]}") from None
            seen[first : first + len(ids)] = [randomness.stable_seed(each) for each in ids]
        order = np.argsort(seen, kind="stable")
        again = order[1:][seen[order[1:]] == seen[order[:-1]]]
        if len(again):
            row = int(again.min())
            name, shard = self.take([row]).ids[0], self.shards[self.shard_of(row)]
            raise InputError(f"{shard.path}: id {name!r:.80} is there twice: make ids unique")

    @cached_property
    def sizes(self) -> Sequence[int]:
        """Pairs of each shard."""
        return [shard.entry.rows for shard in self.shards]

    @cached_property
    def window(self) -> int:
        """As many shards as `memory` holds, at least one."""
        largest = max(shard.bytes + self.has_states * shard.states_bytes for shard in self.shards)
        return max(1, int(self.memory * GIB / largest))

    @property
    def has_degraded(self) -> bool:
        """Whether each pair has a degraded prompt."""
        return "degraded" in self.origin.columns

    @property
    def has_scores(self) -> bool:
        """Whether each pair has scores of both sides."""
        return set(SCORES) <= set(self.origin.columns)

    @property
    def has_labels(self) -> bool:
        """Whether they are single samples, each wanted or not."""
        return LABEL in self.origin.columns

    @property
    def has_seeds(self) -> bool:
        """Whether they were sampled."""
        return self.origin.seeds is not None

    @property
    def sides(self) -> tuple[str, ...]:
        """Of `win` and `lose` those that are kept."""
        return self.origin.sides

    def take(self, rows: Sequence[int]) -> PairData:
        """Some pairs, in the order of `rows`; shards that are not held are read, checked again, and held."""
        arrays = {name: self._empty(name, len(rows)) for name in (*self._numbers, *self.origin.marks)}
        texts = self._read_rows(rows, arrays)
        found = {name: torch.from_numpy(array) for name, array in arrays.items()}
        latents, states = self._pair(found, ""), None
        if self.has_states:
            states = States(found["times"], self._pair(found, "_states"))
        marks = marks_of(found, self.origin.seeds, less="less_is_better" in self.origin.made)
        return PairData(*texts, latents, states, marks)

    def texts_of(self, rows: Sequence[int]) -> Texts:
        """Of some pairs; shards are held as by `take`."""
        return self._read_rows(rows, {})

    def row(self, row: int) -> Row:
        """Everything that is known of a pair beside its latents and states."""
        shard = self.shard_of(row)
        table = self._read(shard).slice(row - int(self._starts[shard]), 1)
        return table.drop_columns(self._numbers).to_pylist()[0]

    def shard_of(self, row: int) -> int:
        """Where a pair is."""
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def prompts_of(self, shard: int) -> list[str]:
        """The prompts of a shard."""
        return self._table(shard)["prompt"].to_pylist()

    def texts(self, *, degraded: bool) -> Iterator[str]:
        """Shard by shard, without reading a latent."""
        wanted = ["prompt", *(["degraded"] if degraded and self.has_degraded else [])]
        for shard in self.shards:
            for column in pq.read_table(shard.path, columns=wanted).itercolumns():
                yield from column.to_pylist()

    def _read_rows(self, rows: Sequence[int], arrays: Mapping[str, NDArray[Any]]) -> Texts:
        """The texts of some pairs; the columns of numbers that have an array are copied into it."""
        places = np.asarray(rows, np.int64)
        shards = np.searchsorted(self._starts, places, side="right") - 1
        texts = {name: [""] * len(places) for name in self._texts}
        for shard in np.unique(shards):
            mine = np.flatnonzero(shards == shard)
            table, inside = self._table(int(shard)), places[mine] - self._starts[shard]
            for name, out in arrays.items():
                out[mine] = numbers_of(table, name, self.origin)[inside]
            for name, column in texts.items():
                for place, text in zip(mine, table[name].take(pa.array(inside)).to_pylist(), strict=True):
                    column[place] = text
        return Texts(texts["id"], texts["prompt"], texts.get("degraded"))

    @property
    def _texts(self) -> list[str]:
        return ["id", "prompt", *(["degraded"] if self.has_degraded else [])]

    def _empty(self, column: str, rows: int) -> NDArray[Any]:
        if column in self.origin.marks:
            return np.empty(rows, self.origin.columns[column].to_pandas_dtype())
        return np.empty((rows, *self.origin.numbers[column]), np.float32 if column == "times" else HALF)

    @property
    def _numbers(self) -> list[str]:
        return [name for name in self.origin.numbers if self.has_states or name not in STATES]

    def _pair(self, found: Mapping[str, Tensor], end: str) -> Pair[Tensor]:
        """Both sides, or twice the only one."""
        sides = [found[f"{side}{end}"] for side in self.sides]
        return Pair(sides[0], sides[-1])

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Number of each shard's first pair."""
        return np.concatenate([[0], np.cumsum(self.sizes)])[:-1]

    def _table(self, number: int) -> pa.Table:
        """A shard, held until as many others were asked for as a window has."""
        if number not in self._held:
            while len(self._held) >= self.window:
                self._held.popitem(last=False)
            self._held[number] = self._read(number).select([*self._texts, *self._numbers, *self.origin.marks])
        self._held.move_to_end(number)
        return self._held[number]

    def _read(self, number: int) -> pa.Table:
        shard = self.shards[number]
        try:
            return read_shard(shard.path, shard.entry, self.origin, states=self.has_states)
        except Damaged as error:
            raise InputError(f"{error}: make it again: `ddspo sample` or import, of rounds/ train --fresh") from None


def listed(path: Path, entry: Entry) -> Shard:
    """A shard by its footer.

    Raises:
        Damaged: It cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema, groups = file.schema_arrow, range(file.metadata.num_row_groups)
            size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
            states = sum(_states_bytes(file.metadata.row_group(group)) for group in groups)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"{path}: no parquet file: {str(error).splitlines()[0]}") from None
    return Shard(path, entry, Origin.of(schema, path), size - states, states)


def _states_bytes(group: pq.RowGroupMetaData) -> int:
    columns = (group.column(number) for number in range(group.num_columns))
    return sum(each.total_uncompressed_size for each in columns if each.path_in_schema.split(".")[0] in STATES)
