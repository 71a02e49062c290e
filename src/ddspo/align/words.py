"""The last words of `ddspo align`: where the result is, and how it is used elsewhere."""

from ddspo.errors import InputError
from ddspo.exports.comfyui import ComfyUI
from ddspo.result import Result
from ddspo.run_folder import RunFolder
from ddspo.stages.export import export


def last_words(folder: RunFolder) -> list[str]:
    """Lines on an aligned model; ComfyUI's file is written beside it where ComfyUI knows the family."""
    result = Result.open(folder.path)
    load = f"pipeline.load_lora_weights({str(folder.aligned)!r})"
    usage = result.aligned.code(load, pipeline=repr(result.recipe.model.path)).strip("\n")
    return [f"the LoRA: {folder.aligned}", "", "in diffusers:", usage, "", *_comfyui(result)]


def _comfyui(result: Result) -> list[str]:
    how = ComfyUI()
    path = result.folder.exports / result.file_name(how)
    try:
        if not path.exists():
            export(result.aligned, how, path, result.card(how, path.name))
    except InputError as error:
        return [str(error)]
    return [f"in ComfyUI: {how.usage(result.aligned, str(path)).strip()}"]
