"""Answers that were paid for, in one sqlite file: each is on disk before the next is looked at."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddspo.database import database
from ddspo.errors import InputError
from ddspo.places import cache

TABLE = "create table if not exists answers (key text primary key, text text not null)"


def usual_place() -> Path:
    """ddspo/answers.sqlite in the user's cache folder."""
    return cache() / "answers.sqlite"


class Answers:
    """Texts by key. Every write is a transaction of its own, so that a killed process leaves whole answers only."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

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
        with database(path, TABLE) as connection:
            yield Answers(connection)
    except (sqlite3.Error, OSError) as error:
        raise InputError(f"degradation.llm.cache {path}: {error}: make room, or give another file") from None
