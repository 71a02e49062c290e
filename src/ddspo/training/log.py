"""The log of a training run: one row of numbers an update, on disk and in memory."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ddspo.files import write_text
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

    def go_on(self, kept: Path | None) -> None:
        """Begin with the rows that a checkpoint kept, or with none; whatever the file holds beyond them is gone."""
        self.rows = read_rows(kept) if kept else []
        if self.writes:
            write_text(self.path, self.text)

    @property
    def text(self) -> str:
        """All rows as the file holds them."""
        return "".join(json.dumps(row) + "\n" for row in self.rows)

    def append(self, row: dict[str, Any]) -> None:
        """Add the row of an update."""
        self.rows.append(row)
        if self.writes:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def row_of(accelerator: Accelerator, step: int, values: Mapping[str, Tensor]) -> dict[str, float]:
    """An update's row: means over all processes; the mean of a square becomes a standard deviation."""
    names = list(values)
    means = accelerator.reduce(torch.stack([values[name].float() for name in names]), "mean").tolist()
    row = {"step": step} | dict(zip(names, means, strict=True))
    for name in [name.removesuffix("_square") for name in names if name.endswith("_square")]:
        row[f"{name}_std"] = max(row.pop(f"{name}_square") - row[f"{name}_mean"] ** 2, 0.0) ** 0.5
    return row
