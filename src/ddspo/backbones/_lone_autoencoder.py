"""A pipeline of which only the autoencoder has weights: all that the features of images take."""

import importlib
import inspect
from pathlib import Path

import torch

from ddspo import catalogue
from ddspo.backbones._folder import check_weights, class_of, parts_of
from ddspo.backbones._loading import load_network
from ddspo.backbones._outline import outline
from ddspo.backbones.base import Backbone, Model, look_up
from ddspo.errors import InputError


def lone_autoencoder(folder: Path, dtype: torch.dtype, device: torch.device) -> Backbone:
    """The backbone of a pipeline's folder, which can `fit`, `decode`, `to_latents` and take `features`, nothing else.

    Args:
        folder: The pipeline's; of weights it need hold the autoencoder's only.
        dtype: Of the autoencoder.
        device: Where it is.

    Raises:
        InputError: There is no such model, no backbone reads it, or its autoencoder is missing or damaged.
    """
    model = Model(str(folder))
    found = look_up(model)
    backbone = outline(_reader_of(found.pipeline_class, found.where), model, reads=False)
    check_weights(found, model, ["vae"])
    kind = class_of(*parts_of(found.model_index)["vae"])
    network = load_network(found.where, kind, found.folder / "vae", None, dtype)
    backbone.pipeline.register_modules(vae=network.to(device))
    return backbone


def _reader_of(pipeline_class: str, where: str) -> type[Backbone]:
    """The backbone that reads pipelines of a class."""
    for name in catalogue.names("backbones"):
        for each in vars(importlib.import_module(catalogue.module("backbones", name))).values():
            own = inspect.isclass(each) and issubclass(each, Backbone) and not inspect.isabstract(each)
            if own and each.pipeline_class.__name__ == pipeline_class:
                return each
    raise InputError(f"{where}: it is a {pipeline_class}, which no backbone reads: give another model")
