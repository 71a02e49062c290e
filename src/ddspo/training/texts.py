"""The conditions of a training's texts, encoded before it or during it."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState

from ddspo.agreement import agree, alone
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition
from ddspo.errors import InputError

ENCODED_AT_ONCE = 64

FREE = 0.8
"""Share of the free disk that conditions may take."""

Encode = Literal["before", "during"]
"""When texts are encoded: before training, all kept in files, or during it."""


class EncodedTexts:
    """Every text's condition, encoded once: within a step no text encoder runs.

    The processes take turns at batches, and write them into one file a tensor, which all of them map: the system holds
    it once a machine, as far as there is memory. Whoever encodes a batch, it holds the same texts.

    Args:
        backbone: Encodes.
        texts: With repetitions.
        folder: Where the files go; whatever is there is thrown away.

    Raises:
        InputError: They do not fit on the disk.
    """

    def __init__(self, backbone: Backbone, texts: Iterable[str], folder: Path) -> None:
        one = backbone.encode([""])
        alone(lambda: _clear(folder))
        unique = agree(lambda: sorted(_fitting(texts, sum(rows.nbytes for rows in one.values()), folder)))
        self._rows = {text: row for row, text in enumerate(unique)}
        agree(lambda: _write(backbone, unique, one, folder))
        self._table = {name: _mapped(folder / name, rows, len(unique)) for name, rows in one.items()}

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


@contextmanager
def conditions_of(
    backbone: Backbone, texts: Iterable[str], encode: Encode, folder: Path
) -> Iterator[EncodedTexts | TextsOnDemand]:
    """The conditions of a training's texts, encoded before or during it.

    Nothing is left of the folder after the block, neither of this training nor of one that was killed.
    """
    try:
        yield EncodedTexts(backbone, texts, folder) if encode == "before" else TextsOnDemand(backbone)
    finally:
        if PartialState().is_main_process:
            shutil.rmtree(folder, ignore_errors=True)


def _clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _fitting(texts: Iterable[str], each: int, folder: Path) -> set[str]:
    """Different texts, as long as conditions of `each` bytes leave some of the disk free."""
    most = int(shutil.disk_usage(folder).free * FREE / each)
    unique: set[str] = set()
    for text in texts:
        unique.add(text)
        if len(unique) > most:
            raise InputError(
                f"train.encode: before: more than {most} texts, each with a condition of {each / 2**10:.0f} KiB, do "
                f"not fit on the disk of {folder.parent}: free some of it, or use train.encode=during"
            )
    return unique


@torch.no_grad()
def _write(backbone: Backbone, texts: Sequence[str], one: Condition, folder: Path) -> None:
    """Encode this process's batches, each into its place."""
    state = PartialState()
    for name in one:
        (folder / name).touch()
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("r+b")) for name in one}
        for first in range(0, len(texts), ENCODED_AT_ONCE)[state.process_index :: state.num_processes]:
            part = texts[first : first + ENCODED_AT_ONCE]
            for name, rows in backbone.encode(part).items():
                whole = rows.reshape(len(part), *one[name].shape[1:]).cpu().contiguous()
                files[name].seek(first * one[name].nbytes)
                files[name].write(whole.view(torch.uint8).numpy().data)


def _mapped(path: Path, one: torch.Tensor, count: int) -> torch.Tensor:
    """What is in a file, as so many rows like one."""
    found = torch.from_file(str(path), shared=True, size=count * one.numel(), dtype=one.dtype)
    return found.view(count, *one.shape[1:])
