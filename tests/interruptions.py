"""Training that is cut off, for tests, and what must be the same afterwards."""

from pathlib import Path

import pytest

from ddspo.rows import Row, read_rows
from ddspo.training.fit import Fit


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the process were killed during an update, counted from 0."""
    update = Fit._update

    def killed(self: Fit, index: int) -> dict[str, float]:
        if index == step:
            raise KeyboardInterrupt
        return update(self, index)

    monkeypatch.setattr(Fit, "_update", killed)


def history(log: Path) -> list[Row]:
    """The rows of a log without how long an update took and how much memory."""
    return [{name: row[name] for name in row if name not in ("seconds", "peak_bytes")} for row in read_rows(log)]
