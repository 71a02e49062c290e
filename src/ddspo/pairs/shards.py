"""A shard: some pairs in a parquet file that says how they were made.

Every row is {id, prompt, how it was made, more columns of the store's own, win, lose}; the latents are half precision
numbers as bytes of one fixed length. `datasets.load_dataset("parquet", data_files="pairs/*.parquet")` reads it.
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
from ddspo.run_folder import Row, differences

FORMAT = 1
HALF = np.dtype(np.float16)

MADE: dict[str, pa.DataType] = {
    **dict.fromkeys(("model", "revision", "dtype", "scheduler"), pa.string()),
    **{"steps": pa.int32(), "guidance": pa.float64()},
}
"""Columns that say how a row was made, null where that has no meaning; parquet stores equal values once."""

DEGRADED: dict[str, pa.DataType] = {"degraded": pa.string(), "kind": pa.string(), "seed": pa.int64()}
"""Columns of pairs whose loser was sampled from a degraded prompt."""


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
    """

    made: Mapping[str, Any]
    shape: tuple[int, ...]
    columns: Mapping[str, pa.DataType] = field(default_factory=dict)

    @property
    def schema(self) -> pa.Schema:
        """Columns and metadata of every shard; a shard with another one is foreign."""
        latent = pa.binary(prod(self.shape) * HALF.itemsize)
        texts = {"id": pa.string(), "prompt": pa.string()}
        columns = {**texts, **MADE, **self.columns, "win": latent, "lose": latent}
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
            common = {"id", "prompt", *MADE, "win", "lose"}
            extra = {each.name: each.type for each in schema if each.name not in common}
            found = cls(said["made"], tuple(said["shape"]), extra)
            if said["format"] == FORMAT and found.schema.equals(schema):
                return found
        except (KeyError, TypeError, ValueError):
            pass
        raise Damaged(f"{path}: no shard of pairs of format {FORMAT}")


def table_of(origin: Origin, rows: Sequence[Row], latents: Pair[Tensor]) -> pa.Table:
    """Rows {id, prompt, ...} and latents [N, *shape] as a table.

    Raises:
        InputError: A latent is not finite, or of another shape.
    """
    schema, columns = origin.schema, {}
    for side, part in latents._asdict().items():
        if tuple(part.shape) != (len(rows), *origin.shape):
            raise InputError(f"{side} latents are {list(part.shape)}, not {[len(rows), *origin.shape]}")
        numbers = part.detach().to("cpu", torch.float16).contiguous()
        finite = torch.isfinite(numbers.flatten(1)).all(1)
        if not finite.all():
            name = rows[int(torch.nonzero(~finite)[0])]["id"]
            raise InputError(
                f"{name!r:.80}: its {side} latent is not finite in half precision: use model.dtype=fp32 or bf16"
            )
        buffer = pa.py_buffer(numbers.numpy().tobytes())
        columns[side] = pa.FixedSizeBinaryArray.from_buffers(schema.field(side).type, len(rows), [None, buffer])
    for each in schema:
        if each.name not in columns:
            same = origin.made.get(each.name) if each.name in MADE else None
            columns[each.name] = pa.array([row.get(each.name, same) for row in rows], each.type)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def encode(table: pa.Table) -> pa.Buffer:
    """A table as the bytes of a parquet file; the same rows always give the same bytes."""
    texts = [name for name in table.column_names if name not in Pair._fields]
    compression = dict.fromkeys(texts, "zstd") | dict.fromkeys(Pair._fields, "none")
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink, compression=compression, use_dictionary=texts, write_statistics=texts)
    return sink.getvalue()


def digest(data: Any) -> str:
    """The checksum that the index keeps."""
    return hashlib.sha256(data).hexdigest()


def read_shard(path: Path, entry: Entry, origin: Origin | None = None) -> pa.Table:
    """The rows of a shard, which are what the index says.

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
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"{path}: no parquet file: {str(error).splitlines()[0]}") from None
    found = Origin.of(table.schema, path)
    if table.num_rows != entry.rows:
        raise Damaged(f"{path}: {table.num_rows} rows, and index.json says {entry.rows}")
    if origin is not None:
        check_origin(path, found, origin)
    check_rows(path, table, found.shape)
    return table


def check_origin(path: Path, found: Origin, wanted: Origin) -> None:
    """A shard of another store is an error, not something to overwrite or to train on.

    Raises:
        InputError: It is one; names what differs.
    """
    if not found.schema.equals(wanted.schema, check_metadata=True):
        ours, theirs = (
            {**each.made, "shape": list(each.shape), "columns": list(each.columns)} for each in (wanted, found)
        )
        where = ", ".join(sorted(differences(ours, theirs)))
        raise InputError(f"{path}: made with another {where}: choose another name=..., or use `ddspo sample --fresh`")


def check_rows(path: Path, table: pa.Table, shape: Sequence[int]) -> None:
    """Texts are there and latents are finite.

    Raises:
        Damaged: They are not; names the row.
    """
    for name in {"id", "prompt", "degraded", *Pair._fields} & set(table.column_names):
        if table[name].null_count:
            raise Damaged(f"{path}: a row without {name}")
    for side in Pair._fields:
        numbers = latents_of(table, side, shape).reshape(len(table), -1)
        finite = np.isfinite(numbers).all(1)
        if not finite.all():
            name = table["id"][int(np.argmin(finite))].as_py()
            raise Damaged(f"{path}: {side} of {name!r:.80} is not finite")


def latents_of(table: pa.Table, side: str, shape: Sequence[int]) -> NDArray[np.float16]:
    """Latents of one side, [N, *shape], read-only, in the table's own memory."""
    array = table[side].combine_chunks()
    flat = np.frombuffer(array.buffers()[1] or b"", dtype=HALF)
    first = array.offset * prod(shape)
    return flat[first : first + len(array) * prod(shape)].reshape(len(array), *shape)
