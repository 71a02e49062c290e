"""Loads a network of transformers, whole, for reading."""

from pathlib import Path
from typing import Any

import torch

from ddspo.errors import InputError, shortened

UNREAD = ("criterion.", "position_ids", "encoder.swin.layernorm.")
"""Of names of weights that reading does without: of training, made anew, or not known to older releases."""


def loaded(kind: Any, folder: Path | None, device: torch.device, **options: Any) -> Any:
    """A network in float32 on a device, from a folder's safetensors, or from `config` and `state_dict`.

    Raises:
        InputError: There is none, or it lacks some of the weights, which would be random.
    """
    where = str(folder) if folder else "the weights"
    files = {"use_safetensors": True, "local_files_only": True} if folder else {}
    try:
        if folder:
            _check_type(kind.config_class, folder)
        network, info = kind.from_pretrained(
            folder, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True, **files, **options
        )
    except InputError:
        raise
    except Exception as error:  # transformers raises a dozen types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{where}: no {kind.__name__} loaded: {shortened(reason, 200)}: get it anew") from None
    others = [str(name) for name, *_ in info["mismatched_keys"]]
    missing = sorted(name for name in [*info["missing_keys"], *others] if not any(part in name for part in UNREAD))
    if missing:
        raise InputError(
            f"{where}: {len(missing)} weights of {kind.__name__} missing or of another size, {missing[0]} the first: "
            "it is damaged or of another model"
        )
    return network.to(device).eval()


def _check_type(config: Any, folder: Path) -> None:
    """Another network's folder would be read for long before its weights turn out not to fit."""
    held = config.get_config_dict(folder)[0].get("model_type")
    if held not in (None, config.model_type):
        raise InputError(f"{folder}: it holds a {shortened(str(held))}, not a {config.model_type}: give another model")
