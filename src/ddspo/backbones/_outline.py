"""A backbone from a model's configuration files alone: every network with its shapes, none with its weights."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from transformers import PreTrainedModel

from ddspo.backbones._folder import UNUSED
from ddspo.backbones.base import DTYPES, Backbone, Model, look_up
from ddspo.errors import InputError

LIBRARIES = ("diffusers", "transformers")


def outline(cls: type[Backbone], model: Model, device: str = "meta", *, reads: bool = True) -> Backbone:
    """The backbone of a model with random weights on a device, or on "meta" with none: no weight file is read.

    Args:
        cls: What reads the model.
        model: The model.
        device: Where its networks are.
        reads: Whether it has its text encoders, which are most of what there is to build.

    Raises:
        InputError: The model's files are not there, or one of its parts is of a library that is not known.
    """
    found = look_up(model)
    folder, index = found.folder, found.model_index
    parts = {name: kind for name, kind in index.items() if isinstance(kind, list) and name not in UNUSED}
    if not reads:
        parts |= {name: [None, None] for name in parts if name.startswith("text_encoder")}
    with _default_dtype(DTYPES[model.dtype]):
        built = {name: _part(folder / name, kind, device) for name, kind in parts.items()}
    unused = {name: None for name in UNUSED if name in index}
    plain = {name: value for name, value in index.items() if name[0] != "_" and not isinstance(value, list)}
    return cls.of(cls.pipeline_class(**built, **unused, **plain | _without_checker(index)), model)


def _part(folder: Path, kind_of_part: list[str | None], device: str) -> Any:
    """A network from its config.json, or any other part (tokenizer, scheduler), which has no weights, as it is."""
    library, name = kind_of_part
    if library is None or name is None:
        return None
    kind: Any = getattr(importlib.import_module(library), name, None) if library in LIBRARIES else None
    if kind is None:
        raise InputError(f"{folder}: made of {library}.{name}, which is not a class of {' or '.join(LIBRARIES)}")
    if issubclass(kind, ModelMixin):
        with torch.device(device):
            return kind.from_config(kind.load_config(folder)).eval()
    if issubclass(kind, PreTrainedModel):
        with torch.device(device):
            return kind(kind.config_class.from_pretrained(folder)).eval()
    return kind.from_pretrained(folder)


def _without_checker(index: dict[str, Any]) -> dict[str, Any]:
    return {"requires_safety_checker": False} if "safety_checker" in index else {}


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
