"""The last words of `ddspo align`: where the result is, and how it is used elsewhere."""

from dataclasses import replace

from ddspo.errors import InputError
from ddspo.exports.base import Aligned
from ddspo.exports.comfyui import ComfyUI
from ddspo.exports.diffusers import Diffusers
from ddspo.places import PACKAGE
from ddspo.result import Result
from ddspo.run_folder import RunFolder
from ddspo.stages.export import export


def last_words(folder: RunFolder) -> list[str]:
    """Lines on an aligned model; ComfyUI's file is written beside it where ComfyUI knows the family."""
    result = Result.open(folder.path)
    usage = Diffusers().usage(_by_path(result.aligned), str(folder.aligned)).strip("\n")
    return [f"the LoRA: {folder.aligned}", "", "in diffusers:", usage, "", *_comfyui(result)]


def _by_path(aligned: Aligned) -> Aligned:
    """With the base called by its place on this machine, and not as others would know it."""
    model = aligned.model
    return aligned if model.path.startswith(PACKAGE) else replace(aligned, model=replace(model, hub_id=model.path))


def _comfyui(result: Result) -> list[str]:
    how = ComfyUI()
    path = result.folder.exports / result.file_name(how)
    try:
        if not path.exists():
            export(result.aligned, how, path, result.card(how, path.name))
    except InputError as error:
        return [str(error)]
    return [f"in ComfyUI: {how.usage(result.aligned, str(path)).strip()}"]
