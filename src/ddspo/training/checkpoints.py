"""Resumable states of a training run: a folder an update, each whole or absent."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[int, dict[str, Tensor]]
"""An optimizer's state: tensors by name, by number of the parameter."""


@dataclass(frozen=True)
class Checkpoints:
    """The folder that holds them.

    Attributes:
        folder: Where they are, each named by its update.
        keep: How many of the newest are kept.
    """

    folder: Path
    keep: int

    def steps(self) -> list[int]:
        """Updates of which there is a checkpoint, the newest last."""
        return sorted(int(path.name) for path in self.folder.glob("[0-9]*"))

    def path(self, step: int) -> Path:
        """The folder of one."""
        return self.folder / f"{step:07d}"

    def write(self, step: int, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Write the named parts, each a safetensors file, under a temporary name, and rename."""
        final, partial = self.path(step), self.folder / f".{step:07d}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, tensors in parts.items():
            whole = {key: value.contiguous() for key, value in tensors.items()}
            save_file(whole, partial / f"{name}.safetensors")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)

    def read(self, step: int, part: str) -> dict[str, Tensor]:
        """One part of a checkpoint."""
        return load_file(self.path(step) / f"{part}.safetensors")

    def prune(self, best: int | None) -> None:
        """Drop all but the newest and the best."""
        for step in self.steps()[: -self.keep]:
            if step != best:
                self.drop(step)

    def drop(self, step: int) -> None:
        """Delete one, if it is there."""
        shutil.rmtree(self.path(step), ignore_errors=True)


def flat(state: State) -> dict[str, Tensor]:
    """An optimizer's state under names that a file can hold."""
    return {f"{index}.{name}": value for index, part in state.items() for name, value in part.items()}


def deep(named: Mapping[str, Tensor]) -> State:
    """Undo `flat`."""
    state: State = {}
    for key, value in named.items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    return state
