"""A model in one file, its weights named as its makers named them: what it is, and its parts in diffusers' names."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ddspo.backbones._folder import is_network
from ddspo.backbones._loading import check_names
from ddspo.backbones._model import short
from ddspo.errors import InputError

FAMILIES = (
    "v1",
    "v2",
    "xl_base",
    "playground-v2-5",
    "sd3",
    "sd35_medium",
    "sd35_large",
    "flux-dev",
    "flux-schnell",
    "flux-2-dev",
    "flux-2-klein",
    "chroma",
    "sana",
    "lumina2",
    "z-image-turbo",
    "qwen-image",
)
"""Kinds of file, by diffusers' own names where it has one, that some backbone reads once they are a folder."""

UNTOLD = {
    "v2": "SD 2.x, of which the weights do not say whether they predict v or noise: give --config "
    "stabilityai/stable-diffusion-2-1 (768 pixels, v) or stabilityai/stable-diffusion-2-1-base",
    "flux-2-klein": "FLUX.2 klein, of which the weights do not say whether it is distilled: give --config "
    "black-forest-labs/FLUX.2-klein-4B (distilled), black-forest-labs/FLUX.2-klein-base-4B, or that of 9B",
    "z-image-turbo": "Z-Image, of which the weights do not say whether it is distilled: give --config "
    "Tongyi-MAI/Z-Image-Turbo (distilled) or Tongyi-MAI/Z-Image",
}
"""Kinds of which there are several with the same names, and what their users must say."""

QWEN = "transformer_blocks.0.img_mod.1.weight"
"""Of Qwen-Image, whose makers' names are diffusers' own, and which diffusers does not tell by them."""

DENOISER = "model.diffusion_model."
"""How names of the denoiser's weights begin, where the file holds more than that."""

CLIPS = {
    "text_encoder": (
        "cond_stage_model.transformer.",
        "cond_stage_model.model.",
        "conditioner.embedders.0.transformer.",
        "text_encoders.clip_l.transformer.",
    ),
    "text_encoder_2": ("conditioner.embedders.1.model.", "text_encoders.clip_g.transformer."),
}
T5 = ("text_encoders.t5xxl.transformer.",)
ENCODERS = (*T5, *CLIPS["text_encoder"], *CLIPS["text_encoder_2"])
VAE = ("first_stage_model.", "vae.")

OPEN_CLIP = ".model."
"""How the beginnings of names end that OpenCLIP gave."""

QUANTISED = (".scale_weight", ".weight_scale", ".absmax", ".comfy_quant", "scaled_fp8")
"""Ends of names that stand beside weights which mean nothing without them."""

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: dict[str, Precision] = {
    "F64": "fp32",
    "F32": "fp32",
    "F16": "fp16",
    "BF16": "bf16",
    "F8_E4M3": "bf16",
    "F8_E5M2": "bf16",
}
"""The precision that holds what a file does, by the file's own names."""

LARGEST = 2**27
"""Bytes that no header has."""

FORMAT = {"format": "pt"}
"""What transformers asks a file's header for."""


class Header(NamedTuple):
    """What the beginning of a file says of the rest."""

    weights: dict[str, Tensor]
    """Names and shapes, on "meta"."""
    precision: Precision
    """That of most weights; bf16 also holds fp8."""


def header(path: Path) -> Header:
    """The beginning of a safetensors file, which may be larger than the memory: no more of it is read.

    Raises:
        InputError: The file is damaged, or its weights are quantised.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            found = json.loads(file.read(length)) if length < LARGEST else {}
        found.pop("__metadata__", None)
        kinds = [str(each["dtype"]) for each in found.values()]
        weights = {name: torch.empty(each["shape"], device="meta") for name, each in found.items()}
        whole = 8 + length + max(each["data_offsets"][1] for each in found.values()) == path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, RecursionError):
        whole = False
    if not whole:
        raise InputError(f"{path}: damaged, or not fetched to its end: get the file anew")
    if not set(kinds) <= {*PRECISIONS, "I64", "I32"} or any(name.endswith(QUANTISED) for name in weights):
        raise InputError(f"{path}: its weights are quantised: give the file in bf16, fp16 or plain fp8")
    known = [PRECISIONS[each] for each in kinds if each in PRECISIONS]
    return Header(weights, max(sorted(set(known)), key=known.count, default="fp32"))


def family(weights: Mapping[str, Tensor]) -> str | None:
    """Which kind of model the names and shapes are of, in diffusers' words; None: one that no backbone reads."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    if QWEN in weights or f"{DENOISER}{QWEN}" in weights:
        return "qwen-image"
    try:
        found = str(infer_diffusers_model_type(weights))
    except Exception:  # it reads values to tell some kinds apart, of which there are none on "meta"
        return None
    if found == "flux-2-dev":  # as it calls all of FLUX.2, of which dev alone has a guidance input
        guided = any(name.removeprefix(DENOISER).startswith("guidance_in.") for name in weights)
        return found if guided else "flux-2-klein"
    if found == "v1":  # what it also says of everything that it does not know
        if f"{DENOISER}label_emb.0.0.weight" in weights:
            return "xl_base"  # without text encoders, by which it knows them
        return found if f"{DENOISER}input_blocks.0.0.weight" in weights else None
    return found if found in FAMILIES else None


def usual_config(kind: str) -> str:
    """The hub id of the model whose configuration a family has."""
    if kind == "qwen-image":
        return "Qwen/Qwen-Image"
    from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS

    return str(DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"])


def names_of(part: str, network: nn.Module, names: Iterable[str]) -> list[str]:
    """Which of a file's names are those of a part of a pipeline; none: the file is without it."""
    from transformers import PreTrainedModel

    known = list(names)
    beginnings: tuple[str, ...] = (DENOISER,)
    if part == "vae":
        beginnings = VAE
    elif isinstance(network, PreTrainedModel):
        beginnings = T5 if "T5" in type(network).__name__ else CLIPS.get(part, ())
    for beginning in beginnings:
        found = [name for name in known if name.startswith(beginning)]
        if found:
            return found
    if part in ("unet", "transformer"):
        return [name for name in known if not name.startswith((*VAE, *ENCODERS))]
    return []


def translated(where: str, part: str, network: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of one part in diffusers' names, all that it has and none that it has not.

    Args:
        where: For messages.
        part: Its name in the pipeline.
        network: The part, on "meta" or anywhere.
        weights: Those of `names_of`, in the file's names; it is emptied. They may be on "meta".

    Raises:
        InputError: Some are missing, of another size, or not known to the network.
    """
    place = f"{where}: {part}"
    try:
        named = _renamed(network, weights)
    except Exception as error:  # a name that is not there, a shape that cannot be cut: whatever a rule trips over
        raise InputError(f"{place}: not of this family ({short(error)}): check --config") from None
    own, tied = network.state_dict(), _tied(network)
    missing = [name for name in own if name not in named and name not in tied]
    others = [name for name, value in named.items() if name in own and own[name].shape != value.shape]
    check_names(place, network, [*missing, *others], [name for name in named if name not in own])
    return {name: value for name, value in named.items() if name in own}


def _tied(network: nn.Module) -> set[str]:
    """Weights that are others under a second name."""
    from transformers import PreTrainedModel

    return set(network._tied_weights_keys or ()) if isinstance(network, PreTrainedModel) else set()


def _renamed(network: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """By diffusers' rule for the class; as they are where they have its names already."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
    from transformers import PreTrainedModel

    if set(weights) == set(network.state_dict()):
        return weights
    if isinstance(network, PreTrainedModel):
        return _renamed_encoder(network, weights)
    if "Transformer" in type(network).__name__:  # where some rules forget it
        weights = {name.removeprefix(DENOISER): weights.pop(name) for name in list(weights)}
    rule = SINGLE_FILE_LOADABLE_CLASSES[type(network).__name__]["checkpoint_mapping_fn"]
    return dict(rule(checkpoint=weights, config=network.config))


def _renamed_encoder(network: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP of either maker, or T5, whose names only begin otherwise."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    first = next(iter(weights))
    beginning = next(each for each in ENCODERS if first.startswith(each))
    if beginning.endswith(OPEN_CLIP):
        named = convert_open_clip_checkpoint(network, weights, prefix=beginning)
    else:
        named = {name.removeprefix(beginning): value for name, value in weights.items()}
    own = network.state_dict()
    if not any(name.startswith("text_model.") for name in own):
        named = {name.removeprefix("text_model."): value for name, value in named.items()}
    projection = own.get("text_projection.weight")
    if projection is not None and "clip_l" in beginning:  # SD3's files have none, or one that is not used
        value = next(iter(named.values()))
        named["text_projection.weight"] = torch.eye(len(projection), dtype=value.dtype, device=value.device)
    elif projection is None:
        named.pop("text_projection.weight", None)
    return named


def read(path: Path, names: Iterable[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Some weights of a file; floating numbers in one precision."""
    with safe_open(path, "pt") as file:
        found = {name: file.get_tensor(name) for name in names}
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in found.items()}


def file_name(kind: type) -> str:
    """What a network's file of weights is called in a folder."""
    from diffusers import ModelMixin

    assert is_network(kind)
    return "diffusion_pytorch_model.safetensors" if issubclass(kind, ModelMixin) else "model.safetensors"
