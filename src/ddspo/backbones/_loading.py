"""A pipeline with all its weights, each of them there, used and finite, or one line that names what is not."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from torch import nn
from transformers import PreTrainedModel

from ddspo.backbones._folder import parts_of, weights_of
from ddspo.backbones._model import Found, Model
from ddspo.errors import InputError

ADAPTER = ("base_layer", "lora_A", "lora_B", "lora_magnitude_vector")
"""Parts of names that PEFT gives to the weights of a layer with an adapter."""


def load_pipeline(
    kind: type[DiffusionPipeline], found: Found, model: Model, dtypes: Mapping[str, torch.dtype]
) -> DiffusionPipeline:
    """A pipeline of some class from what was found of a model, whichever class it was saved by.

    Args:
        kind: The class.
        found: The model's files.
        model: What the recipe says of it.
        dtypes: Precision of the parts by name, and "default".

    Raises:
        InputError: A file is missing or damaged, or weights are missing, not used, or not finite.
    """
    takes = inspect.signature(kind.__init__).parameters
    checker = {"requires_safety_checker": False, "safety_checker": None, "image_encoder": None}
    absent = dict.fromkeys(name for name, entry in found.model_index.items() if entry == [None, None])
    optional = {name: value for name, value in (absent | checker).items() if name in takes}
    try:
        folder = _with_weights(kind, found, model, optional)
        networks = {}
        for name, entry in parts_of(found.model_index).items():
            if name in takes and is_network(class_of(*entry)):
                dtype = dtypes.get(name, dtypes["default"])
                networks[name] = _network(class_of(*entry), folder / name, model, dtype)
        return kind.from_pretrained(folder, **networks, **optional)
    except InputError:
        raise
    except Exception as error:  # every library has its own dozen types for a file that is damaged or missing
        raise InputError(f"model.path {model.path}: not loaded: {first_line(error)}") from None


def class_of(library: str, name: str) -> type | None:
    """A class of diffusers or transformers; None for any other library, which is not imported."""
    if library not in ("diffusers", "transformers"):
        return None
    found = getattr(importlib.import_module(library), name, None)
    return found if isinstance(found, type) else None


def is_network(kind: type | None) -> bool:
    """Whether a part has weights."""
    return kind is not None and issubclass(kind, ModelMixin | PreTrainedModel)


def first_line(error: Exception) -> str:
    """What a library says, short enough for a terminal."""
    said = str(error).strip().splitlines()
    return said[0][:300] if said else type(error).__name__


def _with_weights(kind: type[DiffusionPipeline], found: Found, model: Model, optional: Mapping[str, Any]) -> Path:
    """The folder, of a hub id after everything that loading reads is fetched."""
    if not found.online:
        return found.folder
    return Path(
        kind.download(model.path, revision=found.commit, variant=model.variant, use_safetensors=True, **optional)
    )


def _network(kind: Any, folder: Path, model: Model, dtype: torch.dtype) -> nn.Module:
    files = weights_of(folder, model.variant)
    variant = model.variant if files != weights_of(folder, None) else None
    more = {"variant": variant} if variant else {}
    network, info = kind.from_pretrained(folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **more)
    where = f"model.path {model.path}: {folder.name}"
    check_names(where, network, info["missing_keys"], info["unexpected_keys"])
    check_finite(where, network)
    return network.eval()


def check_names(where: str, network: nn.Module, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    """Refuse weights that lack some of a network's, which would be random, or hold some that it does not have.

    Raises:
        InputError: There are some.
    """
    buffers = {name.rpartition(".")[2] for name, _ in network.named_buffers()}  # made anew, saved by older releases
    unused = sorted(name for name in unexpected if name.rpartition(".")[2] not in buffers)
    if any(part in ADAPTER for name in unused for part in name.split(".")):
        raise InputError(
            f"{where}: saved while a LoRA was loaded: call fuse_lora() and unload_lora_weights(), and save again"
        )
    for names, fault in ((sorted(missing), "missing"), (unused, "not known to its class")):
        if names:
            raise InputError(f"{where}: {_some(names)} {fault}: its files are damaged or of another model")


def check_finite(where: str, network: nn.Module) -> None:
    """Refuse weights that are not finite.

    Raises:
        InputError: Some are not.
    """
    weights = network.state_dict()
    broken = [name for name, tensor in weights.items() if tensor.is_floating_point() and not _finite(tensor)]
    if broken:
        raise InputError(f"{where}: {_some(broken)} not finite: its files are damaged, or it was trained to ruin")


def _finite(tensor: torch.Tensor) -> bool:
    """A sum that is finite has finite terms, and costs no memory; one that is not may have overflown."""
    return bool(torch.isfinite(tensor.sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all())


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more} {'are' if more else 'is'}"
