"""A run folder whose training is finished, opened for whoever hands the result on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ddspo import components, recipe
from ddspo.backbones.base import Backbone
from ddspo.errors import InputError
from ddspo.exports.base import Aligned, Export
from ddspo.exports.diffusers import Diffusers
from ddspo.files import write_text
from ddspo.manifest import Manifest
from ddspo.model_card import model_card
from ddspo.recipe import Recipe
from ddspo.rows import Row, read_json
from ddspo.run_folder import RunFolder
from ddspo.settings import IDENTITY, ITEMS
from ddspo.stages.export import export
from ddspo.stages.push import files

STAGES = ("degrade", "sample", "import", "pretrain", "train")
SAID_ELSEWHERE = ("model", IDENTITY, ITEMS)
"""Settings that the card has in other words, or that only this library can read."""


@dataclass(frozen=True)
class Result:
    """A run folder and its recipe."""

    folder: RunFolder
    recipe: Recipe

    @classmethod
    def open(cls, path: Path) -> "Result":
        """Open a run folder, or its `aligned/`.

        Raises:
            InputError: There is no run, or nothing was trained in it.
        """
        folder = RunFolder(path.parent if path.name == "aligned" else path)
        if not folder.recipe.is_file():
            raise InputError(f"{path}: no run there (no recipe.yaml): give a run folder, for example runs/scenes")
        found = cls(folder, recipe.load(folder.recipe))
        found.aligned.check()
        return found

    @property
    def aligned(self) -> Aligned:
        """The weights and their base."""
        model = self.recipe.model
        # Where the recipe names it, the base itself need not be at hand.
        known = components.find(Backbone, model.backbone) if model.backbone else components.backbone_of(model)
        return Aligned(self.recipe.name, self.folder.aligned, model, known)

    def file_name(self, how: Export) -> str:
        """Name of an export, where the user gives none."""
        return f"{self.recipe.name}-{components.name_of(how)}{how.suffix}"

    def card(self, how: Export, where: str) -> str:
        """The model card as of now."""
        report, trained = self.folder.report_json, Manifest(self.folder).stages().get("train", {})
        return model_card(
            self.aligned,
            how,
            where,
            self._settings(),
            read_json(report, "run `ddspo report`") if report.exists() else None,
            trained.get("versions", {}),
        )

    def _settings(self) -> Row:
        """What the stages that made it ran with, from the manifest: a recipe also holds groups that go unused."""
        stages = Manifest(self.folder).stages()
        found: Row = {}
        for name in STAGES:
            found |= stages.get(name, {}).get("settings", {})
        return {key: value for key, value in found.items() if key not in SAID_ELSEWHERE}

    def write_card(self) -> None:
        """Put the card into `aligned/`."""
        write_text(self.folder.aligned / "README.md", self.card(Diffusers(), "aligned"))

    @contextmanager
    def uploads(self, how: Export, hub_id: str) -> Iterator[dict[str, Path | bytes]]:
        """Export into a folder that lasts as long as the block, and list what of it goes to the hub."""
        path = Path(self.file_name(how))
        card = self.card(how, path.name if how.suffix else hub_id)
        with TemporaryDirectory(prefix=".push-", dir=self.folder.path) as folder:
            export(self.aligned, how, Path(folder) / path, card)
            yield files(Path(folder) / path, card, self.folder.report_json)
