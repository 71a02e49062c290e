"""Resumable states of a training run: a folder an update, each whole or absent, with the digest of every file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddspo.agreement import alone
from ddspo.digests import digest_of
from ddspo.errors import InputError
from ddspo.files import remove, replacing, write_json
from ddspo.training import sharding

State = Mapping[Any, Any]
"""Tensors and numbers by name, or mappings of them by name or number."""

NUMBERS = {int: torch.int64, float: torch.float64}

DIGESTS = "digests.json"


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

    def log(self, step: int) -> Path:
        """The rows of the log up to a checkpoint."""
        return self.path(step) / "log.jsonl"

    def write(self, step: int, parts: Mapping[str, Mapping[str, Tensor]], log: str) -> None:
        """Write the named parts, each a safetensors file, and the log so far; all of it or nothing."""
        with replacing(self.path(step)) as partial:
            partial.mkdir()
            for name, tensors in parts.items():
                whole = {key: value.contiguous() for key, value in tensors.items()}
                save_file(whole, partial / f"{name}.safetensors")
            _close(partial, log)

    def write_shares(self, step: int, parts: Mapping[str, Mapping[str, Tensor]], log: str) -> None:
        """The same of parts of which each process has a share, each a folder; all processes call it together."""
        place = self.folder / f".{step:07d}.shares.partial"  # one name, that of no process

        def begin() -> None:
            remove(place)
            place.mkdir(parents=True)

        def end() -> None:
            with replacing(self.path(step)) as partial:
                place.rename(partial)
                _close(partial, log)

        alone(begin)
        for name, tensors in parts.items():
            sharding.write_shares(tensors, place / name)
        alone(end)

    def drop_damaged(self) -> list[str]:
        """Delete every checkpoint of which a file is missing or another than was written; a line for each."""
        damaged = []
        for step in self.steps():
            fault = self._fault(step)
            if fault:
                damaged.append(f"{self.path(step)}: {fault}: it is not used, and deleted")
                self.drop(step)
        return damaged

    def _fault(self, step: int) -> str | None:
        folder = self.path(step)
        try:
            digests = dict(json.loads((folder / DIGESTS).read_text(encoding="utf-8")))
            found = _digests(folder)
        except (OSError, ValueError, TypeError, InputError):
            return f"{DIGESTS} cannot be read"
        changed = sorted(name for name in {*digests, *found} if digests.get(name) != found.get(name))
        return f"{changed[0]} is another than was written" if changed else None

    def read(self, step: int, part: str) -> dict[str, Tensor]:
        """One part of a checkpoint, whole, however it was written."""
        place = self.path(step) / part
        return sharding.read_shares(place) if place.is_dir() else load_file(place.with_suffix(".safetensors"))

    def read_into(self, step: int, part: str, shares: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put one part of a checkpoint, however it was written, into the own share of each process, and give that."""
        place = self.path(step) / part
        if place.is_dir():
            return sharding.read_shares(place, shares)
        return sharding.shared_out(load_file(place.with_suffix(".safetensors")), shares)

    def shapes(self, step: int, part: str) -> dict[str, Tensor]:
        """What is in one part of a checkpoint, as tensors without memory."""
        place = self.path(step) / part
        if place.is_dir():
            return sharding.shapes(place)
        return {name: value.to("meta") for name, value in load_file(place.with_suffix(".safetensors")).items()}

    def prune(self, best: int | None) -> None:
        """Drop all but the newest and the best."""
        for step in self.steps()[: -self.keep]:
            if step != best:
                self.drop(step)

    def drop(self, step: int) -> None:
        """Delete one, if it is there."""
        remove(self.path(step))


def _close(folder: Path, log: str) -> None:
    """Add the log, and the digest of every file."""
    (folder / "log.jsonl").write_text(log, encoding="utf-8")
    write_json(folder / DIGESTS, _digests(folder))


def _digests(folder: Path) -> dict[str, str]:
    """Of every file but the one that holds them, by its place in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DIGESTS)
    return {path.relative_to(folder).as_posix(): digest_of(path) for path in files}


def flat(state: State, place: str = "") -> dict[str, Tensor]:
    """A state under names that a file can hold, each tensor in memory of its own; a number's name says its type."""
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        name = f"{place}{key}"
        if isinstance(value, Mapping):
            named |= flat(value, f"{name}.")
        elif isinstance(value, Tensor):
            named[name] = value.clone()  # tables of some optimizers are one tensor under many names
        else:
            kind = NUMBERS[type(value)]
            named[f"{name}:{type(value).__name__}"] = torch.tensor(value, dtype=kind)
    return named


def deep(named: Mapping[str, Tensor]) -> dict[Any, Any]:
    """Undo `flat`; a key of digits is a number."""
    state: dict[Any, Any] = {}
    for name, value in named.items():
        path, _, kind = name.partition(":")
        *places, last = (int(key) if key.isdigit() else key for key in path.split("."))
        inside = state
        for each in places:
            inside = inside.setdefault(each, {})
        inside[last] = value.item() if kind else value
    return state
