"""Scores that were given before, so that nothing is judged twice, whoever asks: one database in the user's cache.

A score belongs to what was judged (an image and a row, or a set and its references) and to the identity of the judge.
Every batch is one transaction: an interruption loses one batch.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ddspo.downloads import cache
from ddspo.files import remove
from ddspo.metrics.base import Score

SECONDS = 60.0
"""How long another process may write before it is an error."""
TABLE = (
    "CREATE TABLE IF NOT EXISTS scores (judge TEXT, image TEXT, row TEXT, value REAL, note TEXT, "
    "PRIMARY KEY (judge, image, row)) WITHOUT ROWID"
)


class Key(NamedTuple):
    """Digests of what was judged: an image and its row, or a set and its references; empty for what is not read."""

    image: str
    row: str


class Ledger:
    """What a judge said before; a database that is damaged is made anew, where none can be it remembers nothing."""

    def __init__(self, database: sqlite3.Connection | None) -> None:
        self._database = database

    def known(self, judge: str, keys: Sequence[Key]) -> dict[Key, Score]:
        """Those of some scores that are kept."""
        if not self._database:
            return {}
        ask = "SELECT value, note FROM scores WHERE judge = ? AND image = ? AND row = ?"
        rows = {key: self._database.execute(ask, (judge, *key)).fetchone() for key in dict.fromkeys(keys)}
        return {key: Score(*row) for key, row in rows.items() if row}

    def keep(self, judge: str, scores: Iterable[tuple[Key, Score]]) -> None:
        """Write scores down, all or none."""
        if self._database:
            rows = [(judge, *key, *score) for key, score in scores]
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?)", rows)


@contextmanager
def ledger() -> Iterator[Ledger]:
    """The ledger of this user, open as long as the block lasts."""
    database = None
    with suppress(RuntimeError, OSError, sqlite3.OperationalError):  # no home, or none that can be written
        path = cache() / "scores.sqlite"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            database = _open(path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # no database: what it held can be judged again
            remove(path)
            database = _open(path)
    try:
        yield Ledger(database)
    finally:
        if database:
            database.close()


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=SECONDS)
    database.execute("PRAGMA synchronous = OFF")  # a power cut may damage it, and it is begun anew
    database.execute(TABLE)
    database.commit()
    return database
