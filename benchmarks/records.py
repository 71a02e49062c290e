"""Finished runs as rows of one file, which outlives their folders and can be carried to another machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from gains import Gain

from ddspo.files import write_rows
from ddspo.rows import Row, read_rows

FIGURES = ("seconds", "distance", "readable", "by_tag")
"""What a row says of its run; all else in it says which run that is."""
DIGITS = 6


class Record(NamedTuple):
    """A finished run, and how long it took."""

    seconds: float
    gain: Gain


class Records:
    """Finished runs by what tells them apart; read once, and written whole with each further one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found = _read(path)

    def get(self, which: Row) -> Record | None:
        """A run, if it is finished."""
        row = self._found.get(_key(which))
        if row is None:
            return None
        by_tag = {tag: np.array(values) for tag, values in row["by_tag"].items()}
        return Record(row["seconds"], Gain(row["seed"], by_tag, tuple(row["distance"]), tuple(row["readable"])))

    def add(self, which: Row, seconds: float, gain: Gain) -> None:
        """Keep a run, beside what other processes have written since."""
        by_tag = {tag: [round(float(one), DIGITS) for one in values] for tag, values in gain.by_tag.items()}
        sides = {name: [round(one, DIGITS) for one in getattr(gain, name)] for name in ("distance", "readable")}
        row = which | {"seconds": round(seconds)} | sides | {"by_tag": by_tag}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            self._found = _read(self.path) | {_key(which): row}
            write_rows(self.path, self._found.values())


def _read(path: Path) -> dict[tuple[str, ...], Row]:
    return {_key(row): row for row in read_rows(path)} if path.exists() else {}


def _key(row: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"{name}={row[name]}" for name in sorted(row) if name not in FIGURES)
