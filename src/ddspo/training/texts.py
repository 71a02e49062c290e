"""The conditions of a training's texts, encoded before it or during it."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import psutil
import torch

from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition
from ddspo.errors import InputError

ENCODED_AT_ONCE = 64

FREE = 0.8
"""Share of the free memory that the conditions of all processes may take."""

Encode = Literal["before", "during"]
"""When texts are encoded: before training, all kept in main memory, or during it."""


class EncodedTexts:
    """Every text's condition, encoded once: within a step no text encoder runs.

    Raises:
        InputError: They do not fit into the memory that is free.
    """

    def __init__(self, backbone: Backbone, texts: Iterable[str]) -> None:
        unique = sorted(_fitting(texts, sum(rows.nbytes for rows in backbone.encode([""]).values())))
        self._rows = {text: row for row, text in enumerate(unique)}
        parts = [backbone.encode(unique[i : i + ENCODED_AT_ONCE]) for i in range(0, len(unique), ENCODED_AT_ONCE)]
        self._table = {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}

    def of(self, texts: Sequence[str], device: torch.device) -> Condition:
        """The condition of some texts, on a device."""
        rows = torch.tensor([self._rows[text] for text in texts])
        return {name: table[rows].to(device) for name, table in self._table.items()}


@dataclass(frozen=True)
class TextsOnDemand:
    """Every text's condition, encoded when it is asked for: nothing is kept, and the text encoders stay at work."""

    backbone: Backbone

    def of(self, texts: Sequence[str], device: torch.device) -> Condition:
        """The condition of some texts, on a device; each different text is encoded once."""
        unique = sorted(set(texts))
        rows = torch.tensor([unique.index(text) for text in texts], device=self.backbone.device)
        return {name: table[rows].to(device) for name, table in self.backbone.encode(unique).items()}


def conditions_of(backbone: Backbone, texts: Iterable[str], encode: Encode) -> EncodedTexts | TextsOnDemand:
    """The conditions of a training's texts, encoded before or during it."""
    return EncodedTexts(backbone, texts) if encode == "before" else TextsOnDemand(backbone)


def _fitting(texts: Iterable[str], each: int) -> set[str]:
    """Different texts, as long as conditions of `each` bytes leave some memory free."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    most = int(psutil.virtual_memory().available * FREE / processes / each)
    unique: set[str] = set()
    for text in texts:
        unique.add(text)
        if len(unique) > most:
            raise InputError(
                f"train.encode: before: more than {most} texts, each with a condition of {each / 2**10:.0f} KiB, do "
                "not fit into the memory that is free: use train.encode=during"
            )
    return unique
