"""Answers that were paid for, in one sqlite file: each is on disk before the next is looked at."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ddspo.errors import InputError


def usual_place() -> Path:
    """ddspo/answers.sqlite in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ddspo" / "answers.sqlite"


class Answers:
    """Texts by key. Every write is a transaction of its own, so that a killed process leaves whole answers only."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute(
            "pragma journal_mode = wal"
        )  # what a killed process had written stays, without an fsync each
        connection.execute("pragma synchronous = normal")
        connection.execute("create table if not exists answers (key text primary key, text text not null)")

    def get(self, key: str) -> str | None:
        """The answer to a question, if it is known."""
        row = self._connection.execute("select text from answers where key = ?", (key,)).fetchone()
        return row[0] if row else None

    def keep(self, key: str, text: str) -> None:
        """Write one answer down; the first one to a question stays."""
        self._connection.execute("insert or ignore into answers values (?, ?)", (key, text))


@contextmanager
def answers(path: Path) -> Iterator[Answers]:
    """The answers in a file, which is made if need be; other processes may use it at the same time.

    Raises:
        InputError: The file is damaged, is none of ours, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as connection:
            yield Answers(connection)
    except (sqlite3.Error, OSError) as error:
        raise InputError(f"degradation.llm.cache {path}: {error}: make room, or give another file") from None
