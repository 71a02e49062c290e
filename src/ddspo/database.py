"""SQLite files that several processes write: what a killed one had written stays, without a wait for the disk each."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

SECONDS = 60.0
"""How long another process may write before it is an error."""


@contextmanager
def database(path: Path, table: str) -> Iterator[sqlite3.Connection]:
    """A database with one table, each statement a transaction of its own; both are made if need be.

    Args:
        path: The file.
        table: What makes the table, if it does not exist.

    Raises:
        sqlite3.Error: The file is damaged, no database, or cannot be written.
        OSError: Its folder cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=SECONDS, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.execute(table)
        yield connection
