"""Rows of anyone's parquet file, few in memory at a time, and one line on whatever is wrong with it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ddspo.errors import InputError
from ddspo.rows import Row

BUFFER = 2**20
_FAULTS = (pa.ArrowException, OSError, UnicodeDecodeError)


def open_parquet(path: Path, name: str) -> tuple[pq.ParquetFile, list[str]]:
    """A file of which only the end was read, and the names of its columns.

    Args:
        path: The file.
        name: What it is called in messages.

    Raises:
        InputError: It is no parquet file, or not a whole one.
    """
    try:
        table = pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
        return table, table.schema_arrow.names
    except _FAULTS as error:
        raise InputError(f"{name}: no whole parquet file ({_first(error)}): fetch it again") from None


def parquet_rows(table: pq.ParquetFile, name: str, columns: Sequence[str] | None, at_once: int) -> Iterator[Row]:
    """All rows in order.

    Args:
        table: The file.
        name: What it is called in messages.
        columns: Those that are read; None: all.
        at_once: Rows in memory at a time.

    Raises:
        InputError: It is damaged; says after which row, counted from 1.
    """
    done = 0
    try:
        for batch in table.iter_batches(at_once, columns=columns, use_threads=False):
            for row in batch.to_pylist():
                done += 1
                yield row
    except _FAULTS as error:
        raise InputError(f"{name}: damaged after row {done} ({_first(error)}): fetch it again") from None


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
