"""Scores that were given before, so that nothing is judged twice, whoever asks: one database in the user's cache.

A score belongs to what was judged (an image and a row, or a set and its references) and to the identity of the judge.
Every batch is one transaction: an interruption loses one batch.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ddspo.database import database
from ddspo.errors import InputError
from ddspo.files import remove
from ddspo.metrics.base import Score
from ddspo.places import cache

TABLE = (
    "CREATE TABLE IF NOT EXISTS scores (judge TEXT, image TEXT, row TEXT, value REAL, note TEXT, "
    "PRIMARY KEY (judge, image, row)) WITHOUT ROWID"
)


class Key(NamedTuple):
    """Digests of what was judged: an image and its row, or a set and its references; empty for what is not read."""

    image: str
    row: str


class Ledger:
    """What judges said before."""

    def __init__(self, opened: sqlite3.Connection | None) -> None:
        self._database = opened

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
                self._database.execute("BEGIN")
                self._database.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?)", rows)


@contextmanager
def ledger() -> Iterator[Ledger]:
    """The ledger of this user, open as long as the block lasts; where none can be, it remembers nothing.

    Raises:
        InputError: It turns out to be damaged, or cannot be written any more, in the midst of the block.
    """
    with ExitStack() as stack:
        opened, path = None, None
        with suppress(RuntimeError, OSError, sqlite3.OperationalError):  # no home, or none that can be written
            path = cache() / "scores.sqlite"
            opened = _opened(path, stack)
        try:
            yield Ledger(opened)
        except sqlite3.OperationalError as error:
            raise InputError(f"{path}: {error}: make room, or delete it") from None
        except sqlite3.DatabaseError:
            assert path
            _forget(path)
            raise InputError(f"{path}: damaged, and now deleted: run the command again") from None


def _opened(path: Path, stack: ExitStack) -> sqlite3.Connection:
    try:
        return stack.enter_context(database(path, TABLE))
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:  # no database: what it held can be judged again
        _forget(path)
        return stack.enter_context(database(path, TABLE))


def _forget(path: Path) -> None:
    """Delete a database, and what SQLite keeps beside it."""
    for each in (path, *(path.with_name(f"{path.name}-{kind}") for kind in ("wal", "shm"))):
        remove(each)
