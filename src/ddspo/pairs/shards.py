"""A shard: some pairs in a parquet file that says how they were made.

Every row is {id, prompt, how it was made, more columns of the store's own, win, lose}, or one of these two where
nobody looks at the other; the latents are half precision numbers as bytes of one fixed length, and so are the K states
of each that a store may keep.
`datasets.load_dataset("parquet", data_files="pairs/*.parquet")` reads it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddspo.errors import InputError
from ddspo.maths.pair import Pair
from ddspo.pairs.data import States
from ddspo.pairs.marks import LABEL, SCORES, SEEDS
from ddspo.rows import Row, differences

FORMAT = 1
HALF = np.dtype(np.float16)

MADE: dict[str, pa.DataType] = {
    **dict.fromkeys(("model", "revision", "dtype", "scheduler"), pa.string()),
    **{"steps": pa.int32(), "guidance": pa.float64()},
}
"""Columns that say how a row was made, null where that has no meaning; parquet stores equal values once."""

DEGRADED: dict[str, pa.DataType] = {"degraded": pa.string(), "kind": pa.string(), "seed": pa.int64()}
"""Columns of pairs whose loser was sampled from a degraded prompt."""

STATES = ("times", "win_states", "lose_states")
"""Columns of pairs that keep states which the sampler visited: K times, and K latents of either side."""


def state_columns(count: int, shape: Sequence[int], sides: Sequence[str] = Pair._fields) -> dict[str, pa.DataType]:
    """The types of `STATES` for so many states of latents of one shape; no columns for none."""
    latents, time = pa.binary(count * prod(shape) * HALF.itemsize), pa.field("element", pa.float32())
    return {"times": pa.list_(time, count)} | {f"{side}_states": latents for side in sides} if count else {}


class Damaged(InputError):
    """A shard is not what was written; the message names it."""


class Entry(NamedTuple):
    """What the index says of a shard."""

    rows: int
    sha256: str


@dataclass(frozen=True)
class Origin:
    """How the pairs of a store were made, and what their rows hold: the same for each of its shards.

    Attributes:
        made: Plain values that tell one store from another (model, seed, digest of the settings ...). They go into the
            metadata of each shard, and those that `MADE` names into each row that says nothing else.
        shape: Of one latent: channels, height, width.
        columns: Columns beyond the common ones, for example `DEGRADED`.
        sides: Of `win` and `lose` those that are kept.
    """

    made: Mapping[str, Any]
    shape: tuple[int, ...]
    columns: Mapping[str, pa.DataType] = field(default_factory=dict)
    sides: tuple[str, ...] = Pair._fields

    @property
    def states(self) -> int:
        """How many states are kept of each pair."""
        return self.columns["times"].list_size if "times" in self.columns else 0

    @property
    def numbers(self) -> dict[str, tuple[int, ...]]:
        """The columns that hold numbers in place of texts and plain values, and their shape in one row."""
        kept, latents = self.states, dict.fromkeys(self.sides, self.shape)
        states = {f"{side}_states": (kept, *self.shape) for side in self.sides}
        return latents | {"times": (kept,)} | states if kept else latents

    @property
    def seeds(self) -> Pair[str] | None:
        """The columns with the seeds of either side's initial noise; None: nothing was sampled.

        Imported pairs have an empty one where their prompts were degraded.
        """
        known = [] if "dataset" in self.made else SEEDS
        return next((both for both in known if set(both) <= set(self.columns)), None)

    @property
    def marks(self) -> tuple[str, ...]:
        """The columns that hold what `Marks` is made of."""
        return tuple(name for name in dict.fromkeys((*SCORES, LABEL, *(self.seeds or ()))) if name in self.columns)

    @property
    def schema(self) -> pa.Schema:
        """Columns and metadata of every shard; a shard with another one is foreign."""
        latent = pa.binary(prod(self.shape) * HALF.itemsize)
        texts = {"id": pa.string(), "prompt": pa.string()}
        columns = {**texts, **MADE, **self.columns, **dict.fromkeys(self.sides, latent)}
        text = json.dumps({"format": FORMAT, "made": self.made, "shape": self.shape, "latents": HALF.name})
        return pa.schema(columns.items(), {"ddspo": text})

    @classmethod
    def of(cls, schema: pa.Schema, path: Path) -> "Origin":
        """What a shard says of itself.

        Raises:
            Damaged: It is no shard of this format.
        """
        try:
            said = json.loads((schema.metadata or {})[b"ddspo"])
            common = {"id", "prompt", *MADE, *Pair._fields}
            extra = {each.name: each.type for each in schema if each.name not in common}
            sides = tuple(side for side in Pair._fields if side in schema.names)
            found = cls(said["made"], tuple(said["shape"]), extra, sides)
            states = {name: kind for name, kind in extra.items() if name in STATES}
            known = states == state_columns(found.states, found.shape, sides)
            if sides and said["format"] == FORMAT and known and found.schema.equals(schema):
                return found
        except (KeyError, TypeError, ValueError, AttributeError):
            pass
        raise Damaged(f"{path}: no shard of pairs of format {FORMAT}")


def table_of(origin: Origin, rows: Sequence[Row], latents: Pair[Tensor], states: States | None = None) -> pa.Table:
    """Rows {id, prompt, ...}, latents [N, *shape] and the states of a store that keeps some as a table.

    Raises:
        InputError: A latent is not finite, or of another shape.
    """
    schema, made, columns = origin.schema, origin.made, {}
    parts = latents._asdict() | (states.named() if states is not None else {})
    for name, shape in origin.numbers.items():
        part, kind = parts[name], schema.field(name).type
        if tuple(part.shape) != (len(rows), *shape):
            raise InputError(f"{name} latents are {list(part.shape)}, not {[len(rows), *shape]}")
        columns[name] = _times(part, kind) if name == "times" else _packed(name, part, rows, kind, made.get("dtype"))
    for each in schema:
        if each.name not in columns:
            same = made.get(each.name) if each.name in MADE else None
            columns[each.name] = pa.array([row.get(each.name, same) for row in rows], each.type)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _times(times: Tensor, kind: pa.DataType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(times.float().flatten().cpu().numpy()), type=kind)


def _packed(column: str, part: Tensor, rows: Sequence[Row], kind: pa.DataType, dtype: str | None) -> pa.Array:
    """Numbers [N, ...] as N fixed lengths of bytes."""
    numbers = part.detach().to("cpu", torch.float16).contiguous()
    finite = torch.isfinite(numbers.flatten(1)).all(1)
    if not finite.all():
        name = rows[int(torch.nonzero(~finite)[0])]["id"]
        mend = "use model.dtype=fp32 or bf16" if dtype == "fp16" else "choose another sampler, or a lower guidance"
        raise InputError(f"{name!r:.80}: its {column} latent is not finite in half precision: {mend}")
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(numbers.numpy().tobytes())])


def encode(table: pa.Table) -> pa.Buffer:
    """A table as the bytes of a parquet file; the same rows always give the same bytes."""
    texts = [name for name in table.column_names if name not in (*Pair._fields, *STATES)]
    compression = dict.fromkeys(texts, "zstd") | dict.fromkeys(Pair._fields, "none")
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink, compression=compression, use_dictionary=texts, write_statistics=texts)
    return sink.getvalue()


def digest(data: Any) -> str:
    """The checksum that the index keeps."""
    return hashlib.sha256(data).hexdigest()


def read_shard(path: Path, entry: Entry, origin: Origin | None = None, *, states: bool = True) -> pa.Table:
    """The rows of a shard, which are what the index says, with or without its states.

    Raises:
        Damaged: The file is missing, or another than was written, or its rows cannot be used.
        InputError: It belongs to another store than `origin`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror}") from None
    if digest(data) != entry.sha256:
        raise Damaged(f"{path}: its checksum is not that of index.json: it is damaged, or another file")
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            schema = file.schema_arrow
            table = file.read([name for name in schema.names if states or name not in STATES])
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"{path}: no parquet file: {str(error).splitlines()[0]}") from None
    found = Origin.of(schema, path)
    if table.num_rows != entry.rows:
        raise Damaged(f"{path}: {table.num_rows} rows, and index.json says {entry.rows}")
    if origin is not None:
        check_origin(path, found, origin)
    check_rows(path, table, found)
    return table


def check_origin(path: Path, found: Origin, wanted: Origin) -> None:
    """A shard of another store is an error, not something to overwrite or to train on.

    Raises:
        InputError: It is one; names what differs.
    """
    if not found.schema.equals(wanted.schema, check_metadata=True):
        ours, theirs = (
            {**each.made, "shape": list(each.shape), "columns": list(each.columns), "draw.latents": list(each.sides)}
            for each in (wanted, found)
        )
        where = ", ".join(sorted(differences(ours, theirs)))
        raise InputError(f"{path}: made with another {where}: choose another name=..., or use `ddspo sample --fresh`")


def check_rows(path: Path, table: pa.Table, origin: Origin) -> None:
    """Texts are there and numbers are finite.

    Raises:
        Damaged: They are not; names the row.
    """
    here = [name for name in origin.numbers if name in table.column_names]
    for name in {"id", "prompt", "degraded", *origin.marks, *here} & set(table.column_names):
        if table[name].null_count:
            raise Damaged(f"{path}: a row without {name}")
    for name in here:
        finite = np.isfinite(numbers_of(table, name, origin)).reshape(len(table), -1).all(1)
        if not finite.all():
            row = table["id"][int(np.argmin(finite))].as_py()
            raise Damaged(f"{path}: {name} of {row!r:.80} is not finite")


def numbers_of(table: pa.Table, column: str, origin: Origin) -> NDArray[Any]:
    """What a column of `Origin.numbers` or `marks` holds, [N, ...], read-only; latents in the table's own memory."""
    if column in origin.marks:
        return table[column].to_numpy()
    array, shape = table[column].combine_chunks(), origin.numbers[column]
    if column == "times":
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), *shape)
    flat = np.frombuffer(array.buffers()[1] or b"", dtype=HALF)
    first = array.offset * prod(shape)
    return flat[first : first + len(array) * prod(shape)].reshape(len(array), *shape)
