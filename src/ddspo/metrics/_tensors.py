"""Files of published weights, read into tensors and filled into networks: nothing of a pickle is run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ddspo.backbones._loading import check_finite, check_names
from ddspo.backbones._model import short
from ddspo.backbones._tokenizers import check_tokenizer
from ddspo.errors import InputError


def tensors(where: str, path: Path) -> dict[str, torch.Tensor]:
    """The weights of a file of safetensors, or of a state dict in a file of torch.save.

    Args:
        where: How a message begins.
        path: The file; of a checkpoint that was pickled, what is under `state_dict` counts.

    Raises:
        InputError: It is missing or damaged, or a pickle of more than data, or holds no weights.
    """
    if not path.is_file():
        raise InputError(f"{where}: no {path.name} there: give a folder that has it, or a hub id")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else _pickled(path)
    except Exception as error:  # zip files, pickles, torch's reader and safetensors' each have their types
        raise InputError(f"{where}: {path.name} not read: {short(error)}: get it anew from its publisher") from None
    named = {name: each for name, each in found.items() if isinstance(name, str) and isinstance(each, torch.Tensor)}
    if not named:
        raise InputError(f"{where}: {path.name} holds no weights: get it anew from its publisher")
    return named


def _pickled(path: Path) -> Mapping[Any, Any]:
    found = torch.load(path, map_location="cpu", weights_only=True)
    found = found.get("state_dict", found) if isinstance(found, dict) else {}
    return found if isinstance(found, dict) else {}


def network_with(where: str, kind: Any, config: Any, weights: Mapping[str, torch.Tensor], **options: Any) -> Any:
    """A network of transformers with given weights, all of them there, used and finite.

    Args:
        where: How a message begins.
        kind: Its class.
        config: Its configuration.
        weights: By the names of the class.
        options: Of its making, as `dtype`.

    Raises:
        InputError: They are not.
    """
    options |= {"state_dict": dict(weights), "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        network, info = kind.from_pretrained(None, config=config, **options)
    except Exception as error:  # what does not fit a configuration is found by a dozen checks
        raise InputError(f"{where}: not loaded: {short(error)}: get its files anew") from None
    others = [str(name) for name, *_ in info["mismatched_keys"]]
    check_names(where, network, [*info["missing_keys"], *others], sorted(info["unexpected_keys"]))
    check_finite(where, network)
    return network.eval()


def load_tokenizer(where: str, kind: Any, folder: Path, encoder: Any, **options: Any) -> Any:
    """The tokenizer of a folder that goes with a text encoder.

    Args:
        where: How a message begins.
        kind: Its class.
        folder: Its files.
        encoder: The encoder's configuration.
        options: Of its making.

    Raises:
        InputError: Its files are missing or damaged, or it is another encoder's.
    """
    try:
        tokenizer = kind.from_pretrained(folder, **options)
    except Exception as error:  # tokenizers have types of their own for a file that is damaged
        raise InputError(f"{where}: tokenizer not loaded: {short(error)}: get its files anew") from None
    check_tokenizer(f"{where}: tokenizer", tokenizer, encoder.to_dict())
    return tokenizer


def under(start: str, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of some weights whose names begin with `start`, by what follows."""
    return {name.removeprefix(start): each for name, each in weights.items() if name.startswith(start)}
