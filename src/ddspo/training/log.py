"""The log of a training run: one row of numbers an update, on disk and in memory."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddspo.files import write_rows
from ddspo.rows import read_rows


@dataclass
class Log:
    """Rows so far, in every process; the file is kept by one.

    Attributes:
        path: A JSONL file.
        writes: Whether this process keeps it.
    """

    path: Path
    writes: bool
    rows: list[dict[str, Any]] = field(default_factory=list)

    def cut(self, step: int) -> None:
        """Read what an earlier start left, up to an update, and forget what came after."""
        rows = _whole_rows(self.path) if self.path.exists() else []
        self.rows = [row for row in rows if row["step"] <= step]
        if self.writes:
            write_rows(self.path, self.rows)

    def append(self, row: dict[str, Any]) -> None:
        """Add the row of an update."""
        self.rows.append(row)
        if self.writes:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a log whose last line may have been cut off by a kill."""
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    return read_rows(path)
