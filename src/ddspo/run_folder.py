"""The folder of a run: its paths, and the manifest of what was begun and finished."""

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddspo.errors import InputError, Stopped
from ddspo.files import write_json
from ddspo.rows import Row, differences

MENDS = ("lr", "max_grad_norm")
"""Settings that may change where a guard stopped a stage: what is done stays, and the log says which rate it had."""


MODELS = ("base", "aligned")
"""Whose images a run compares, the first with the second."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. Stages talk through these files and never import one another."""

    path: Path

    @property
    def prompts(self) -> Path:
        """Rows {id, prompt, degraded: [{text, kind}], seed}."""
        return self.path / "prompts.jsonl"

    @property
    def undegraded(self) -> Path:
        """The rows whose prompt cannot be degraded."""
        return self.path / "undegraded.jsonl"

    @property
    def degradations(self) -> Path:
        """Folder of report.json and gap.png: what was done to the prompts, by kind, and whether the model can tell."""
        return self.path / "degradations"

    @property
    def pairs(self) -> Path:
        """Folder of parquet shards {id, prompt, how it was made, ..., win, lose} and their index."""
        return self.path / "pairs"

    @property
    def left_out(self) -> Path:
        """Rows {place, reason, detail}: what of a preference dataset gave no pair."""
        return self.path / "left_out.jsonl"

    @property
    def importing(self) -> Path:
        """The same while it is imported, one file a part."""
        return self.path / "importing"

    @property
    def pretraining(self) -> "RunFolder":
        """Log and checkpoints of winner and loser, laid out as those of a run."""
        return RunFolder(self.path / "pretrain")

    @property
    def policies(self) -> Path:
        """Folder of winner/ and loser/ of a data-driven pair, each an ordinary diffusers LoRA or pipeline folder."""
        return self.path / "policies"

    @property
    def checkpoints(self) -> Path:
        """Folder of resumable training states, one folder a step."""
        return self.path / "checkpoints"

    @property
    def rounds(self) -> Path:
        """Folder of pairs that the policy made while it was trained, one folder a round."""
        return self.path / "rounds"

    def round(self, number: int) -> Path:
        """Shards of one round, counted from 1."""
        return self.rounds / f"{number:04d}"

    @property
    def log(self) -> Path:
        """One row of health metrics an update."""
        return self.path / "log.jsonl"

    @property
    def validation(self) -> Path:
        """Folder of grids, one an update: base above, policy below."""
        return self.path / "validation"

    @property
    def trackers(self) -> Path:
        """Folder of what experiment trackers keep."""
        return self.path / "trackers"

    @property
    def aligned(self) -> Path:
        """The result: an ordinary diffusers LoRA or pipeline folder."""
        return self.path / "aligned"

    @property
    def exports(self) -> Path:
        """Folder of files and folders in other tools' formats."""
        return self.path / "exports"

    @property
    def images(self) -> Path:
        """Folder of PNG files: pairs/, base/, aligned/."""
        return self.path / "images"

    @property
    def scores(self) -> Path:
        """One row an evaluated image."""
        return self.path / "scores.jsonl"

    @property
    def parts(self) -> Path:
        """Folder of score rows, one file a generated batch."""
        return self.path / "scores"

    @property
    def votes(self) -> Path:
        """One row a vote for either model's image: a preference dataset {prompt, chosen, rejected}."""
        return self.path / "votes.jsonl"

    @property
    def ties(self) -> Path:
        """One row a vote for neither."""
        return self.path / "ties.jsonl"

    @property
    def evaluation(self) -> Path:
        """Chosen guidance scales and fidelity of base and aligned."""
        return self.path / "evaluation.json"

    @property
    def report_html(self) -> Path:
        """The page to look at."""
        return self.path / "report.html"

    @property
    def report_json(self) -> Path:
        """The same figures for programs."""
        return self.path / "report.json"

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        """Versions of what ran, and on what."""
        return self.path / "environment.json"

    @property
    def manifest(self) -> Path:
        """{stage: {settings, seconds, finished}}."""
        return self.path / "manifest.json"

    def stages(self) -> Row:
        """The manifest, empty where nothing has begun."""
        return json.loads(self.manifest.read_text()) if self.manifest.exists() else {}

    def check(self, name: str, settings: Any) -> Row:
        """The manifest's entry of a stage, empty if it was not begun.

        Raises:
            InputError: The stage was begun with other settings.
        """
        entry = self.stages().get(name, {})
        changed = set(differences(entry["settings"], settings)) if entry else set()
        if entry.get("stopped"):
            changed = {key for key in changed if key.rpartition(".")[2] not in MENDS}
        if changed:
            where = ", ".join(sorted(changed))
            raise InputError(
                f"{self.path}: stage {name} was begun with another {where}: choose another name=..., or add --fresh "
                f"to `ddspo {name}` or `ddspo run`, which throws away what this stage and later ones left"
            )
        return entry

    @contextmanager
    def stage(self, name: str, settings: Any, *, writes: bool = True) -> Iterator[bool]:
        """Enter a stage; yields whether there is work left. Leaving without an error marks it finished.

        A stage that a guard stopped is marked too, and may go on with other `MENDS`.

        Args:
            name: The stage's name.
            settings: Everything its result depends on, as plain data; kept in the manifest.
            writes: Whether this process keeps the manifest (only the first one may).

        Raises:
            InputError: The stage was begun with other settings.
        """
        entry = self.check(name, settings)
        if entry.get("finished"):
            yield False
            return
        began, spent = time.monotonic(), entry.get("seconds", 0.0)
        self._record(name, writes, settings=settings, seconds=spent, finished=False)
        state: dict[str, bool] = {"finished": False}
        try:
            yield True
            state = {"finished": True}
        except Stopped:
            state = {"finished": False, "stopped": True}
            raise
        finally:
            seconds = round(spent + time.monotonic() - began, 2)
            self._record(name, writes, settings=settings, seconds=seconds, **state)

    def clear(self, names: Iterable[str]) -> None:
        """Forget some stages and delete their files, and nothing else."""
        names = set(names)
        for path in [path for name in names for path in self._outputs[name]]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if self.manifest.exists():
            write_json(self.manifest, {name: row for name, row in self.stages().items() if name not in names})

    def result(self, stage: str) -> Path:
        """What a stage is there for."""
        return self._outputs[stage][0]

    @property
    def _outputs(self) -> dict[str, tuple[Path, ...]]:
        """What each stage leaves, its result first."""
        pictures, trained = self.images, (self.aligned, self.checkpoints, self.rounds, self.log)
        images = [pictures / model for model in MODELS]
        return {
            "degrade": (self.prompts, self.undegraded, self.degradations),
            "sample": (self.pairs, pictures / "pairs"),
            "import": (self.pairs, self.left_out, self.importing, pictures / "pairs"),
            "pretrain": (self.policies, self.pretraining.path),
            "train": (*trained, self.validation, self.trackers, self.exports),
            "evaluate": (self.scores, self.parts, self.evaluation, *images, self.votes, self.ties),
            "report": (self.report_html, self.report_json, self.aligned / "README.md"),
        }

    def _record(self, name: str, writes: bool, **entry: Any) -> None:
        if writes:
            write_json(self.manifest, self.stages() | {name: entry})
