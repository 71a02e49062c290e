"""Where a pipeline comes from, looked up without loading any weights."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from typing_extensions import Doc

from ddspo.errors import InputError, quoted
from ddspo.hub import Snapshot, snapshot
from ddspo.places import PACKAGE, local

LARGEST = 2**20
"""Bytes that no configuration of a network has."""

SINGLE = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
"""Ends of the names of files that hold a whole model."""

OTHER_TASKS = ("Img2ImgPipeline", "InpaintPipeline")
"""Ends of the names of pipelines that change an image."""


Quantization = Literal["int8", "nf4", "fp8"]


@dataclass(frozen=True)
class Model:
    """Where a diffusers pipeline comes from, and how it is read."""

    path: Annotated[str, Doc("a diffusers folder, a hub id, or package://ddspo.scenes/noise")]
    backbone: Annotated[str | None, Doc("which file of ddspo/backbones reads it; null: found from its class")] = None
    revision: Annotated[str | None, Doc("branch, tag or commit of a hub id")] = None
    variant: Annotated[str | None, Doc("file variant, for example fp16")] = None
    dtype: Annotated[
        Literal["fp32", "bf16", "fp16"], Doc("precision of frozen weights and of autocast in training")
    ] = "fp32"
    quantize: Annotated[
        Quantization | None,
        Doc("what the frozen weights of the denoiser's blocks are rounded to; null: kept in model.dtype"),
    ] = None
    offload: Annotated[
        bool, Doc("whether those weights wait in main memory and come to the accelerator layer by layer")
    ] = False
    resolution: Annotated[
        Annotated[int, Gt(0), Le(16_384)] | None,
        Doc("side of the square images in pixels; null: what the model was made for"),
    ] = None
    max_length: Annotated[
        Annotated[int, Gt(1), Le(65_536)] | None,
        Doc("tokens that T5, Gemma, Qwen, Mistral or GLM reads; null: the pipeline's own default"),
    ] = None
    distilled_guidance: Annotated[
        Annotated[float, Ge(0), Le(100)] | None,
        Doc("in training, the guidance input of FLUX.1-dev and FLUX.2-dev; null: the pipeline's own, 3.5 and 4"),
    ] = None
    hub_id: Annotated[str | None, Doc("OWNER/NAME under which others find a folder's model; its card says so")] = None


SAID = ("resolution", "max_length")
"""Options that a folder which was saved here says itself, in its model_index.json, an underline before each.

diffusers reads no name that begins so, and several of its pipelines know no side of their own.
"""


@dataclass(frozen=True)
class Found:
    """A model that exists: its files, of which a hub id's weights may still be missing, and its model_index.json."""

    path: str
    """As the recipe has it."""
    folder: Path
    model_index: dict[str, Any]
    commit: str | None = None
    """Of a hub id."""
    online: bool = False
    """Whether the hub can be asked for what is missing."""

    @property
    def where(self) -> str:
        """How a message about it begins."""
        return f"model.path {self.path}"

    @property
    def pipeline_class(self) -> str:
        """Name of its diffusers class, or of the text-to-image pipeline that has the same parts."""
        name = str(self.model_index["_class_name"])
        return _text_to_image(name) if name.endswith(OTHER_TASKS) else name

    def told(self, model: Model) -> Model:
        """A recipe's model with what the folder itself says of resolution and length, where the recipe says nothing.

        Raises:
            InputError: It says something else than a number.
        """
        open_ = [name for name in SAID if getattr(model, name) is None]
        held: dict[str, Any] = {name: self.model_index.get(f"_{name}") for name in open_}
        for name, value in held.items():
            if not (value is None or (type(value) is int and 1 < value <= 65_536)):
                raise InputError(f"{self.where}: its model_index.json says _{name} {quoted(value)}: give a number")
        return replace(model, **held)

    def config(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder.

        Raises:
            InputError: It is missing or damaged.
        """
        return read_object(self.folder, name, self.where)


def look_up(model: Model) -> Found:
    """Find a model and read its model_index.json.

    Raises:
        InputError: It does not exist, cannot be reached, or has no index that can be read.
    """
    where, folder = f"model.path {model.path}", local(model.path)
    if model.path.endswith(SINGLE) and (folder is None or "://" in model.path or not folder.is_dir()):
        raise InputError(
            f"{where}: one file, and a diffusers folder is needed: make it with `ddspo convert FILE FOLDER`"
        )
    if "://" in model.path.removeprefix(PACKAGE):
        raise InputError(f"{where}: give a diffusers folder on this machine, or a hub id as OWNER/NAME")
    kept = snapshot(model.path, model.revision) if folder is None else Snapshot(folder, online=False)
    index = read_object(kept.folder, "model_index.json", where)
    if not isinstance(index.get("_class_name"), str):
        raise InputError(
            f"{where}: its model_index.json names no class of diffusers: give a diffusers pipeline folder"
        )
    return Found(model.path, kept.folder, index, kept.commit if folder is None else None, kept.online)


def read_object(folder: Path, name: str, where: str) -> dict[str, Any]:
    """A small JSON file of a folder.

    Raises:
        InputError: It is missing or damaged, or holds anything but an object.
    """
    path = folder / name
    try:
        if not path.is_file():
            raise InputError(f"{where}: no {name} there: give a diffusers pipeline folder")
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{where}: {name}: {error.strerror}: give another folder") from None
    try:
        found = json.loads(text.decode("utf-8")) if len(text) <= LARGEST else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{where}: its {name} is damaged: get the folder anew")
    return found


def short(error: Exception) -> str:
    """The first sentence of what a library says."""
    said = " ".join(re.split(r"(?<=[\w)\]])\. |[.:]?\n", str(error).strip())[0].split())
    return said.rstrip(".:")[:240] or type(error).__name__


def _text_to_image(name: str) -> str:
    """The class that makes images from texts with the parts of one that changes images; the same if none does."""
    from diffusers.pipelines import auto_pipeline as known  # it imports every pipeline that there is

    texts = known.AUTO_TEXT2IMAGE_PIPELINES_MAPPING
    for others in (known.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, known.AUTO_INPAINT_PIPELINES_MAPPING):
        for family, kind in others.items():
            if kind.__name__ == name and family in texts:
                return str(texts[family].__name__)
    return name
