"""The layers of a LoRA, each with its own rank and scale, whoever made it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from peft.utils.other import get_pattern_key
from torch import Tensor

from ddspo.errors import InputError, quoted


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
    found = {}
    for key, usual in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
        patterns = dict(config.get(key) or {})
        found[usual] = float(patterns.get(get_pattern_key(list(patterns), name), config[usual]))
    if found["r"] != rank:
        raise InputError(f"LoRA layer {quoted(name)}: has rank {rank}, and its file's header says {found['r']:g}")
    return found["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
