"""Files of LoRA weights that anyone made: whether they are of a model, and how they are merged into it."""

from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ddspo.backbones._model import short
from ddspo.backbones.base import Backbone
from ddspo.errors import InputError, quoted

OTHERS = {
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "hada_w": "a LoHa",
    "lokr_": "a LoKr",
    "oft_": "an OFT",
}
"""Parts of names of other kinds of adapter, of which diffusers would leave something out, or everything."""

LARGEST = 10.0
"""A scale that nobody means."""


class LoraFile(NamedTuple):
    """A file, and how strongly it is added."""

    path: Path
    scale: float

    @classmethod
    def of(cls, text: str) -> "LoraFile":
        """FILE or FILE:SCALE.

        Raises:
            InputError: There is no such file, it is no safetensors, or the scale is none.
        """
        name, scale = text, "1"
        if ":" in text and not Path(text).is_file():
            name, _, scale = text.rpartition(":")
        path = Path(name).expanduser()
        if path.suffix != ".safetensors":
            raise InputError(f"--lora {quoted(text)}: give FILE.safetensors, or FILE.safetensors:0.8")
        if not path.is_file():
            raise InputError(f"--lora {path}: no such file")
        try:
            value = float(scale)
        except ValueError:
            value = float("nan")
        if not 0 < abs(value) <= LARGEST:
            raise InputError(f"--lora {path}: scale {quoted(scale)}: give a number other than 0, at most {LARGEST:g}")
        return cls(path, value)


def check_lora(backbone: Backbone, lora: LoraFile) -> list[str]:
    """Names of the parts of a pipeline that a file changes.

    Args:
        backbone: A model, whose networks may be on "meta".
        lora: The file.

    Raises:
        InputError: The file is damaged or no LoRA, or holds a layer that the model has not, or has at another size.
    """
    where = f"--lora {lora.path}"
    layers = _layers(backbone, lora, where)
    changed = []
    for part in backbone.pipeline._lora_loadable_modules:
        network, mine = getattr(backbone.pipeline, part, None), f"{part}."
        named = {name.removeprefix(mine): layers.pop(name) for name in list(layers) if name.startswith(mine)}
        if named:
            try:
                named = _peft_names(network, named)
            except ValueError as error:
                raise InputError(f"{where}: {part}: {short(error)}: give a LoRA of this model's family") from None
            _check_layers(f"{where}: {part}", network, named)
            changed.append(part)
    if layers or not changed:
        name = next(iter(layers), "nothing")
        kind = backbone.pipeline_class.__name__
        raise InputError(f"{where}: {quoted(name)} is no part of a {kind}: give a LoRA of this model's family")
    return changed


def merge(backbone: Backbone, lora: LoraFile, parts: list[str]) -> None:
    """Add a file's layers, W + scale (alpha / rank) B A, to the weights of the parts that it changes."""
    pipeline = backbone.pipeline
    pipeline.load_lora_weights(str(lora.path.parent), weight_name=lora.path.name)
    pipeline.fuse_lora(components=parts, lora_scale=lora.scale)
    pipeline.unload_lora_weights()


def _layers(backbone: Backbone, lora: LoraFile, where: str) -> dict[str, Tensor]:
    """The weights of a file in diffusers' names, the part's name first, without what only scales them."""
    kind: Any = backbone.pipeline_class
    if "lora_state_dict" not in dir(kind):
        raise InputError(f"{where}: diffusers reads no LoRA into a {kind.__name__}: leave --lora out")
    try:
        with safe_open(lora.path, "pt") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(f"{where}: not read ({short(error)}): get the file anew") from None
    other = next((what for part, what in OTHERS.items() if any(part in name for name in names)), None)
    if other:
        raise InputError(f"{where}: it is {other}, and only LoRA is merged: give a LoRA, or merge it elsewhere first")
    options = {"unet_config": backbone.config} if backbone.denoiser_name == "unet" else {}
    try:
        found = kind.lora_state_dict(
            str(lora.path.parent), weight_name=lora.path.name, use_safetensors=True, **options
        )
    except Exception as error:  # whatever a rule for names trips over
        raise InputError(f"{where}: no LoRA of a {kind.__name__} ({short(error)}): give one of its family") from None
    layers = dict(found[0] if isinstance(found, tuple) else found)
    stray = next((name for name in layers if "lora" not in name), None)
    if stray:
        raise InputError(f"{where}: it holds {quoted(stray)}, which is no LoRA: give a file of LoRA layers alone")
    return layers


def _peft_names(network: nn.Module | None, layers: dict[str, Tensor]) -> dict[str, Tensor]:
    """MODULE.lora_A.weight and MODULE.lora_B.weight, as loading makes them."""
    from diffusers.utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )
    from transformers import PreTrainedModel

    if isinstance(network, PreTrainedModel):
        named = convert_state_dict_to_peft(convert_state_dict_to_diffusers(layers))
        flat = not any(name == "text_model" for name, _ in network.named_children())
        return {name.removeprefix("text_model.") if flat else name: value for name, value in named.items()}
    return dict(layers if "lora_A" in next(iter(layers)) else convert_unet_state_dict_to_peft(layers))


def _check_layers(where: str, network: nn.Module | None, layers: dict[str, Tensor]) -> None:
    """Whether each is of a layer that is there, [rank, in, ...] or [out, rank, ...]."""
    modules = dict(network.named_modules()) if network is not None else {}
    for name, value in layers.items():
        module, _, end = name.partition(".lora_")
        layer = modules.get(module)
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            raise InputError(f"{where} has no {quoted(module)}: give a LoRA of this model's family")
        own = tuple(layer.weight.shape)
        if value.dim() > 1 and (value.shape[1] != own[1] if end[0] == "A" else len(value) != own[0]):
            shape = tuple(value.shape)
            raise InputError(f"{where}.{quoted(name)} is {shape} beside weights of {own}: it is of another model")
