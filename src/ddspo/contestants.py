"""Who else is evaluated: a LoRA, a run, a pipeline, or images that were made elsewhere, as the files tell."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ddspo import components, recipe
from ddspo.backbones._identity import identity
from ddspo.backbones.base import Backbone, Model
from ddspo.digests import file_identity
from ddspo.errors import InputError, shortened
from ddspo.exports.base import LORA, PEFT
from ddspo.galleries import open_folder
from ddspo.judging.pictures import Picture
from ddspo.places import local
from ddspo.rows import Row
from ddspo.run_folder import RunFolder


@dataclass(frozen=True)
class Contestant:
    """A model beside base and aligned.

    Attributes:
        identity: Digest of its files.
        model: The pipeline that draws; None for images from elsewhere.
        adapt: What makes it this model, once it is loaded.
        pictures: The images from elsewhere.
    """

    identity: str
    model: Model | None = None
    adapt: Callable[[Backbone], object] | None = None
    pictures: Sequence[Picture] = ()


def contestant(name: str, place: str, base: Model, items: Sequence[Row]) -> Contestant:
    """Look at what a recipe names under `evaluate.models`; no weights are loaded.

    Args:
        name: What the recipe calls it.
        place: Folder, file or hub id.
        base: What a LoRA is put on.
        items: Rows of the evaluation, of which images from elsewhere must show each.

    Raises:
        InputError: There is no such thing, or it cannot draw, or lacks images.
    """
    where = f"evaluate.models.{name}"
    folder = local(place)
    if folder is None or (folder / "model_index.json").is_file():
        return _pipeline(replace(base, path=place, backbone=None, revision=None, variant=None, hub_id=None))
    if not folder.exists():
        raise InputError(f"{where}: {shortened(place)}: no such file or folder: give another, or a hub id")
    if (folder / "recipe.yaml").is_file():
        return _run(RunFolder(folder), where)
    if folder.suffix == ".safetensors" or any((folder / each).is_file() for each in (LORA, PEFT[1])):
        return Contestant(file_identity(folder), base, lambda backbone: backbone.load_lora(folder))
    return _elsewhere(folder, items, where)


def _pipeline(model: Model) -> Contestant:
    components.backbone_of(model).check(model)
    return Contestant(identity(model), model)


def _run(run: RunFolder, where: str) -> Contestant:
    given = recipe.load(run.recipe)
    if not run.aligned.is_dir():
        raise InputError(f"{where}: {shortened(str(run.path))}: nothing was trained there: run `ddspo train` first")
    components.backbone_of(given.model).check(given.model)
    both = f"{identity(given.model)}-{file_identity(run.aligned)}"
    return Contestant(both, given.model, lambda backbone: given.adaptation.load(backbone, run.aligned))


def _elsewhere(folder: Path, items: Sequence[Row], where: str) -> Contestant:
    opened = open_folder(folder)
    if opened.faults:
        raise InputError(f"{where}: {opened.faults[0]}")
    if len(opened.galleries) != 1:
        names = ", ".join(each.name for each in opened.galleries)
        raise InputError(f"{where}: {shortened(str(folder))}: images of several models ({names}): name one's folder")
    (gallery,) = opened.galleries
    shown = {picture.item for picture in gallery.pictures}
    missing = [row["prompt"] for row in items if row["prompt"] not in shown]
    if missing:
        raise InputError(
            f"{where}: {shortened(str(folder))}: no image of {len(missing)} of {len(items)} prompts of "
            f"evaluate.prompts, for example {shortened(missing[0])}: draw them, or leave it out"
        )
    return Contestant(file_identity(folder), pictures=gallery.pictures)
