"""Where a pipeline comes from, looked up without loading any weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from typing_extensions import Doc

from ddspo.backbones._hub import snapshot
from ddspo.errors import InputError
from ddspo.places import local

LARGEST = 2**20
"""Bytes that no model_index.json has: each is a few lines."""


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
    """A model that exists: its files, of which a hub id's weights may still be missing, and its model_index.json."""

    folder: Path
    model_index: dict[str, Any]
    commit: str | None = None
    """Of a hub id."""
    online: bool = False
    """Whether the hub can be asked for what is missing."""

    @property
    def pipeline_class(self) -> str:
        """Name of its diffusers class."""
        return str(self.model_index["_class_name"])


def look_up(model: Model) -> Found:
    """Find a model and read its model_index.json.

    Raises:
        InputError: It does not exist, cannot be reached, or has no index that can be read.
    """
    folder = local(model.path)
    if folder is None:
        kept = snapshot(model.path, model.revision)
        return Found(kept.folder, _index(model, kept.folder), kept.commit, kept.online)
    return Found(folder, _index(model, folder))


def _index(model: Model, folder: Path) -> dict[str, Any]:
    path, where = folder / "model_index.json", f"model.path {model.path}"
    try:
        if not path.is_file():
            raise InputError(f"{where}: no model_index.json there: give a diffusers pipeline folder")
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{where}: model_index.json: {error.strerror}: give another folder") from None
    try:
        index = json.loads(text.decode("utf-8")) if len(text) <= LARGEST else None
    except (ValueError, RecursionError):
        index = None
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise InputError(f"{where}: its model_index.json is damaged: get the folder anew")
    return index
