"""The layers of a LoRA, each with its own rank and scale, whoever made it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ddspo.errors import InputError, quoted
from ddspo.saved import same

LORA = "pytorch_lora_weights.safetensors"
PEFT = ("adapter_config.json", "adapter_model.safetensors")
"""PEFT's own files, where diffusers has no LoRA loader for a pipeline."""


class Layer(NamedTuple):
    """The update of one module's weight, scale * B A.

    Attributes:
        down: A, [rank, in, ...].
        up: B, [out, rank, ...].
        scale: alpha / rank; of a rank-stabilised LoRA alpha / sqrt(rank) (Kalajdzievski 2023).
    """

    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """Inner dimension."""
        return len(self.down)

    @property
    def alpha(self) -> float:
        """What a reader divides by the rank to have the scale."""
        return self.scale * self.rank


@dataclass(frozen=True)
class Adapter:
    """A LoRA.

    Attributes:
        layers: By module name inside the denoiser.
        dora: Whether each sum W + scale B A is also brought to a trained length (DoRA, Liu et al. 2024).
    """

    layers: Mapping[str, Layer]
    dora: bool = False

    def check_read(self, read: "Adapter", where: Path) -> None:
        """Whether a file that this one was written to holds it, to the last bit.

        Raises:
            InputError: A layer is missing, or is another.
        """
        for name in self.layers.keys() | read.layers.keys():
            mine, found = self.layers.get(name), read.layers.get(name)
            if not (mine and found and same(mine.down, found.down) and same(mine.up, found.up)) or (
                mine.scale != found.scale
            ):
                raise InputError(f"{where}: layer {quoted(name)} is not there as it was written: check the disk")


def lora_files(folder: Path) -> tuple[str, ...]:
    """Names of the files that make a LoRA up; none where a folder holds another thing."""
    kinds = ((LORA,), PEFT)
    return next((names for names in kinds if all((folder / name).is_file() for name in names)), ())


def adapter_in(folder: Path, denoiser_name: str, *, idle: bool = False) -> Adapter:
    """The layers of a LoRA that a folder holds, each with its scale; `idle`: also of one that changes nothing.

    Raises:
        InputError: The file is broken, lacks what tells its scale, or changes nothing.
    """
    files, prefix = lora_files(folder), denoiser_name
    path = folder / files[-1]
    try:
        with safe_open(path, "pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            header = file.metadata() or {}
        if files == PEFT:
            prefix = "base_model.model"
            config = json.loads((folder / PEFT[0]).read_text(encoding="utf-8"))
        else:
            held = json.loads(header["lora_adapter_metadata"]).items()
            config = {key.removeprefix(f"{prefix}."): value for key, value in held if key.startswith(f"{prefix}.")}
        found = read(weights, prefix, config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, re.error) as error:
        raise InputError(f"{path}: no whole LoRA file with its alpha ({error}): run `ddspo train` again") from None
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise InputError(f"{path}: holds numbers that are not finite: train again with a smaller train.lr")
    if not idle and not found.dora and not any(layer.up.any() and layer.down.any() for layer in found.layers.values()):
        raise InputError(f"{path}: its updates are all zero, so it changes nothing: train longer, or by a larger lr")
    return found


def read(weights: Mapping[str, Tensor], prefix: str, config: Mapping[str, Any]) -> Adapter:
    """Pair the matrices of a diffusers or PEFT file up, each pair with its scale as PEFT would have it.

    Args:
        weights: Everything in the file.
        prefix: What each name starts with, such as the denoiser's name in the pipeline.
        config: PEFT's `LoraConfig` of the file, as a mapping.

    Raises:
        InputError: A key is of another form, a matrix has no partner, or a rank is not what `config` says.
        KeyError, TypeError, ValueError: `config` is none.
    """
    layers, lengths = {}, [key for key in weights if key.endswith(".lora_magnitude_vector")]
    for key, down in weights.items():
        name = key.removesuffix(".lora_A.weight")
        if name != key:
            up = weights.get(f"{name}.lora_B.weight")
            if up is None or not name.startswith(f"{prefix}."):
                raise InputError(f"LoRA key {key}: no lora_B beside it in {prefix}: give a file of whole pairs there")
            inside = name.removeprefix(f"{prefix}.")
            layers[inside] = Layer(down, up, _scale(config, inside, len(down)))
    if not layers or len(weights) != 2 * len(layers) + len(lengths):
        raise InputError(
            f"LoRA file: {len(weights)} weights make {len(layers)} pairs of lora_A and lora_B: give a file of these "
            "alone"
        )
    return Adapter(layers, bool(lengths) or bool(config.get("use_dora")))


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    """By PEFT's rule: the first pattern that is the end of a module's name gives its own rank or alpha."""
    from peft.utils.other import get_pattern_key

    found = {}
    for key, usual in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
        patterns = dict(config.get(key) or {})
        found[usual] = float(patterns.get(get_pattern_key(list(patterns), name), config[usual]))
    if found["r"] != rank:
        raise InputError(f"LoRA layer {quoted(name)}: has rank {rank}, and its file's header says {found['r']:g}")
    return found["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
