"""What of a run was begun and finished, with which settings, from what, and the digest of everything that it left."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ddspo.digests import digest_of
from ddspo.errors import InputError, Stopped
from ddspo.files import remove, replace_atomically, write_json
from ddspo.rows import Row, read_json
from ddspo.run_folder import RunFolder

SEAL = "sha256"
"""The manifest's own digest, beside the stages."""
COPIED = ("index.json", "layout.json")
"""Of pairs/: without them nobody would know which shards are whole, and days of sampling would be lost."""
OF_ITS_END = ("digest", "result", "update", "peak_bytes")
"""Of a stage's entry, what is known of a finished one alone."""
PRESENT = {"sample": "pairs/*.parquet", "import": "pairs/*.parquet"}
"""What has no digest here but must be there: shards have theirs in an index."""
CARD = "README.md"
"""Of aligned/: the report writes it anew, and it is the report's."""


@dataclass(frozen=True)
class Manifest:
    """The stages of a run folder; only the first process writes."""

    run: RunFolder
    writes: bool = True
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the packages that are at work, kept with each stage that they make."""

    def stages(self) -> Row:
        """{stage: {settings, inputs, versions, seconds, finished, digest, result ...}}, empty where nothing has begun.

        A manifest that is damaged or gone is read from its copy.

        Raises:
            InputError: The copy is damaged too.
        """
        copy = self._copy
        if not (self.run.manifest.exists() or copy.exists()):
            return {}
        found = _read(self.run.manifest) or _read(copy)
        if found is None:
            raise InputError(
                f"{self.run.manifest}: damaged, and so is {copy.name}: nobody knows what is finished: "
                "choose another name=..., or move the run folder away"
            )
        return found

    def restore(self) -> list[str]:
        """Write the manifest and its copy again where one of them is damaged or gone; a line says so."""
        both = (self.run.manifest, self._copy)
        damaged = [path for path in both if _read(path) is None] if any(path.exists() for path in both) else []
        if damaged:
            self._write(self.stages())
        return [f"{path}: damaged or gone: it is put back from a copy" for path in damaged if path.name[0] != "."]

    def entry(self, name: str) -> Row:
        """What is known of a stage; empty if it was not begun, or was and left nothing to go on from."""
        entry = self.stages().get(name, {})
        left = entry.get("finished") or any(map(_holds_files, self.run.continued[name]))
        return entry if left else {}

    def has_finished(self, name: str) -> bool:
        """Whether a stage is done."""
        return bool(self.entry(name).get("finished"))

    def is_whole(self, name: str) -> bool:
        """Whether a stage is done, and what it left is as it was written."""
        return self.has_finished(name) and not self.damage(name)

    def result(self, name: str) -> str | None:
        """Digest of what a finished stage is there for; None where it is not finished or nobody took it."""
        return self.entry(name).get("result")

    @contextmanager
    def stage(self, name: str, settings: Row, inputs: Mapping[str, str | None]) -> Iterator[bool]:
        """Enter a stage; yields whether there is work left. Leaving without an error marks it finished.

        A stage that a guard stopped is marked too.

        Args:
            name: The stage's name.
            settings: Everything its result depends on, as plain data.
            inputs: The digests of the stages that it reads.
        """
        entry = self.entry(name)
        if entry.get("finished"):
            yield False
            return
        given: Row = {"settings": settings, "inputs": dict(inputs), "versions": dict(self.versions)}
        began, spent = time.monotonic(), entry.get("seconds", 0.0)
        self._record(name, given | {"seconds": spent, "finished": False})
        state: Row = {"finished": False}
        try:
            yield True
            state = {"finished": True} | (self._seal(name) if self.writes else {})
        except Stopped:
            state = {"finished": False, "stopped": True}
            raise
        finally:
            self._record(name, given | {"seconds": round(spent + time.monotonic() - began, 2)} | state)

    def go_on(self, name: str, settings: Row | None = None) -> None:
        """Open a stage again that goes on from what it left, from now on with other settings if there are some."""
        entry = self.entry(name)
        if entry:
            known = {key: entry[key] for key in entry if key not in OF_ITS_END}
            self._record(name, known | {"settings": settings or entry["settings"], "inputs": {}, "finished": False})

    def drop_aligned(self) -> list[str]:
        """Delete the aligned model and what it drew, so that both are made again; says what was kept aside."""
        said = self.run.clear_aligned()
        self.go_on("images")
        return said

    def note(self, name: str, found: Row) -> None:
        """Keep something more of a stage that is done; nothing depends on it."""
        if found:
            self._record(name, self.entry(name) | found)

    def damage(self, name: str) -> dict[Path, str]:
        """What a finished stage left and is not as it was written: {file: what is wrong}."""
        path, digest = self._digests(name), self.entry(name).get("digest")
        if digest is None:
            return {} if _holds_files(self.run.result(name)) else {self.run.result(name): "missing"}
        if not path.is_file() or digest_of(path) != digest:
            return {path: "missing or another than was written, so that nobody knows what else is"}
        wrong = {}
        for file, expected in read_json(path, "").items():
            place = self.run.path / file
            if not place.is_file():
                wrong[place] = "missing"
            elif expected and digest_of(place) != expected:
                wrong[place] = "another than was written"
        return wrong

    def reopen(self, name: str) -> list[str]:
        """Put back what is damaged of a finished stage, or take it away, so that the stage makes it again.

        Returns:
            A line for each damaged file.
        """
        damaged = self.damage(name) if self.has_finished(name) else {}
        lost = [path for path in damaged if not self._put_back(name, path)]
        for path in lost:
            remove(path)
        if lost:
            entry = {key: value for key, value in self.entry(name).items() if key not in OF_ITS_END}
            self._record(name, entry | {"finished": False})
        ends = {path: "it is made again" if path in lost else "it is put back from a copy" for path in damaged}
        return [f"{path}: {what}: {ends[path]}" for path, what in damaged.items()]

    def _put_back(self, name: str, path: Path) -> bool:
        """Whether there is a whole copy of a small file without which much would have to be made again."""
        copy, digests = self.run.digests / path.name, self._digests(name)
        if path.name not in COPIED or not (copy.is_file() and digests.is_file()):
            return False
        expected = read_json(digests, "").get(path.relative_to(self.run.path).as_posix())
        if digest_of(copy) != expected:
            return False
        replace_atomically(path, lambda partial: shutil.copyfile(copy, partial))
        return True

    def forget(self, names: Iterable[str]) -> list[str]:
        """Delete the files of some stages and all that is known of them; says what was kept aside."""
        names = set(names)
        said = self.run.clear(names)
        for name in names:
            remove(self._digests(name))
        if self.stages():
            self._write({name: row for name, row in self.stages().items() if name not in names})
        return said

    def _seal(self, name: str) -> Row:
        """Keep the digests of what a stage left; gives that of the list, and that of the result alone."""
        found: dict[str, str | None] = {}
        for file in self._left(name):
            found[file.relative_to(self.run.path).as_posix()] = digest_of(file)
            if file.name in COPIED:
                replace_atomically(self.run.digests / file.name, partial(shutil.copyfile, file))
        if name in PRESENT:
            found |= {path.relative_to(self.run.path).as_posix(): None for path in self.run.path.glob(PRESENT[name])}
        write_json(self._digests(name), found)
        result = self.run.result(name).relative_to(self.run.path).as_posix()
        own = {file: digest for file, digest in found.items() if file == result or file.startswith(f"{result}/")}
        return {"digest": digest_of(self._digests(name)), "result": _sealed(own)}

    def _left(self, name: str) -> Iterator[Path]:
        for path in self.run.sealed[name]:
            inside = sorted(path.rglob("*")) if path.is_dir() else []
            yield from (file for file in inside if file.is_file() and file.name != CARD)
            if path.is_file():
                yield path

    def _digests(self, name: str) -> Path:
        return self.run.digests / f"{name}.json"

    @property
    def _copy(self) -> Path:
        return self.run.path / ".manifest.json"

    def _record(self, name: str, entry: Row) -> None:
        if self.writes:
            self._write(self.stages() | {name: entry})

    def _write(self, stages: Row) -> None:
        for path in (self.run.manifest, self._copy):
            write_json(path, stages | {SEAL: _sealed(stages)})


def _read(path: Path) -> Row | None:
    """A manifest that is whole. One without a digest is of an older release, or a person's."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not all(
        isinstance(entry, dict) for name, entry in found.items() if name != SEAL
    ):
        return None
    digest = found.pop(SEAL, None)
    return found if digest in (None, _sealed(found)) else None


def _sealed(stages: Any) -> str:
    return hashlib.sha256(json.dumps(stages, sort_keys=True).encode()).hexdigest()


def _holds_files(path: Path) -> bool:
    return path.is_file() or any(each.is_file() for each in path.rglob("*"))
