"""Where a pipeline comes from, looked up without loading any weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from typing_extensions import Doc

from ddspo.errors import InputError
from ddspo.places import local


@dataclass(frozen=True)
class Model:
    """Where a diffusers pipeline comes from, and how it is read."""

    path: Annotated[str, Doc("a diffusers folder, a hub id, or package://PACKAGE/FOLDER")]
    backbone: Annotated[str | None, Doc("which file of ddspo/backbones reads it; null: found from its class")] = None
    revision: Annotated[str | None, Doc("branch, tag or commit of a hub id")] = None
    variant: Annotated[str | None, Doc("file variant of a hub id, for example fp16")] = None
    dtype: Annotated[
        Literal["fp32", "bf16", "fp16"], Doc("precision of frozen weights and of autocast in training")
    ] = "fp32"
    resolution: Annotated[
        Annotated[int, Gt(0), Le(16_384)] | None,
        Doc("side of the square images in pixels; null: what the model was made for"),
    ] = None
    max_length: Annotated[
        Annotated[int, Gt(1), Le(65_536)] | None,
        Doc("tokens that T5 or Gemma reads; null: the pipeline's own default"),
    ] = None
    distilled_guidance: Annotated[
        Annotated[float, Ge(0), Le(100)] | None, Doc("in training, the guidance input of FLUX.1-dev; null: 3.5")
    ] = None


@dataclass(frozen=True)
class Found:
    """A model that exists: what `from_pretrained` takes, and its model_index.json."""

    name: str
    model_index: dict[str, Any]

    @property
    def pipeline_class(self) -> str:
        """Name of its diffusers class."""
        return str(self.model_index.get("_class_name"))


def look_up(model: Model) -> Found:
    """Find a model and read its model_index.json.

    Raises:
        InputError: It does not exist or cannot be reached.
    """
    folder = local(model.path)
    index = (folder / "model_index.json") if folder else _hub_index(model)
    if not index.is_file():
        raise InputError(f"model.path {model.path}: no model_index.json there: give a diffusers pipeline folder")
    return Found(str(folder or model.path), json.loads(index.read_text(encoding="utf-8")))


def _hub_index(model: Model) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model.path, "model_index.json", revision=model.revision))
    except Exception as error:  # the hub's client raises a dozen types, all of which mean the same to the user
        raise hub_error(model, error) from None


def hub_error(model: Model, error: Exception) -> InputError:
    """What the hub's client raised, as one line for the user."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return InputError(
        f"model.path {model.path}: no such folder here, and the hub did not answer for it ({reason[:160]}): "
        "check the name and the network, or give a local folder"
    )
