"""A backbone from a model's configuration files alone: every network with its shapes, none with its weights."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from transformers import PreTrainedModel

from ddspo.backbones._folder import class_of, left_out, parts_of
from ddspo.backbones._quantize import quantize
from ddspo.backbones.base import DTYPES, Backbone, Model


def outline(cls: type[Backbone], model: Model, device: str = "meta", *, reads: bool = True) -> Backbone:
    """The backbone of a model with random weights on a device, or on "meta" with none: no weight file is read.

    Args:
        cls: What reads the model.
        model: The model.
        device: Where its networks are; on "meta" they are not quantised, because nothing is there to be rounded.
        reads: Whether it has its text encoders, which are most of what there is to build.

    Raises:
        InputError: The model's files are not there, or a part is missing or of another kind of model.
    """
    found, kind = cls.check(model, weights=False), cls.pipeline_class
    takes = inspect.signature(kind.__init__).parameters
    parts = {name: class_of(*entry) for name, entry in parts_of(found.model_index).items() if name in takes}
    plain = {key: value for key, value in found.model_index.items() if key in takes and not isinstance(value, list)}
    mute = [] if reads else [name for name in parts if name.startswith("text_encoder")]
    with _default_dtype(DTYPES[model.dtype]):
        built = {name: _part(found.folder / name, part, device) for name, part in parts.items() if name not in mute}
    if model.quantize and device != "meta":
        quantize(built[cls.denoiser_name], model.quantize)
    return cls.of(kind(**plain | dict.fromkeys(mute) | built | left_out(found, kind)), found.told(model))


def _part(folder: Path, kind: Any, device: str) -> Any:
    """A network from its config.json, or any other part (tokenizer, scheduler), which has no weights, as it is."""
    if issubclass(kind, ModelMixin):
        with torch.device(device):
            return kind.from_config(kind.load_config(folder)).eval()
    if issubclass(kind, PreTrainedModel):
        with torch.device(device):
            return kind(kind.config_class.from_pretrained(folder), **_on_the_spot(kind)).eval()
    return kind.from_pretrained(folder)


def _on_the_spot(kind: Any) -> dict[str, Any]:
    """What keeps ChatGLM from making room for its weights on the CPU, wherever it is made."""
    return {"empty_init": False} if "empty_init" in inspect.signature(kind).parameters else {}


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
