"""A pipeline with all its weights, each of them there, used and finite, or one line that names what is not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ddspo.backbones._folder import check_weights, left_out, networks_of, weights_of
from ddspo.backbones._model import Found, Model, short
from ddspo.backbones._readers import tokenizer_of
from ddspo.backbones._tokenizers import check_tokenizer, readers_in
from ddspo.errors import InputError
from ddspo.saved import verify

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

ADAPTER = ("base_layer", "lora_A", "lora_B", "lora_magnitude_vector")
"""Parts of names that PEFT gives to the weights of a layer with an adapter."""


def load_pipeline(
    kind: "type[DiffusionPipeline]", found: Found, model: Model, dtypes: Mapping[str, torch.dtype]
) -> "DiffusionPipeline":
    """A pipeline of some class from what was found of a model, whichever class it was saved by.

    Args:
        kind: The class.
        found: The model's files.
        model: What the recipe says of it.
        dtypes: Precision of the parts by name, and "default".

    Raises:
        InputError: A file is missing or damaged, or weights are missing, not used, or not finite.
    """
    networks = networks_of(found, kind)
    optional = left_out(found, kind)
    folder = _with_weights(kind, found, model, optional)
    try:
        check_weights(replace(found, folder=folder), model, networks)
        loaded = {
            name: load_network(found.where, each, folder / name, model.variant, dtypes.get(name, dtypes["default"]))
            for name, each in networks.items()
        }
        pipeline = kind.from_pretrained(folder, **loaded, **optional)
    except InputError:
        raise
    except Exception as error:  # every library has its own dozen types for a file that is damaged or missing
        readers_in(replace(found, folder=folder), kind, lower=False)  # or a tokenizer is to blame, which it names
        raise InputError(f"{found.where}: not loaded: {short(error)}: get the folder anew") from None
    for encoder in (name for name in networks if name.startswith("text_encoder")):
        tokenizer = encoder.replace("text_encoder", "tokenizer")
        config = found.config(f"{encoder}/config.json")
        check_tokenizer(f"{found.where}: {tokenizer}", tokenizer_of(getattr(pipeline, tokenizer)), config)
    return pipeline


def save_pipeline(
    pipeline: "DiffusionPipeline", denoiser_name: str, folder: Path, told: Mapping[str, int | None]
) -> None:
    """Write a diffusers folder, and read the denoiser's weights again.

    Args:
        pipeline: Everything that is written.
        denoiser_name: Part that is read again.
        folder: Where to.
        told: Options of `SAID` that `Found.told` is to find there; None: nothing.
    """
    pipeline.register_to_config(**{f"_{name}": value for name, value in told.items() if value})
    pipeline.save_pretrained(folder)
    verify((folder / denoiser_name).glob("*.safetensors"), getattr(pipeline, denoiser_name).state_dict())


def _with_weights(kind: "type[DiffusionPipeline]", found: Found, model: Model, optional: Mapping[str, Any]) -> Path:
    """The folder, of a hub id after everything that loading reads is fetched."""
    if not found.online:
        return found.folder
    try:
        return Path(
            kind.download(model.path, revision=found.commit, variant=model.variant, use_safetensors=True, **optional)
        )
    except Exception as error:  # the hub's client and diffusers' own
        raise InputError(
            f"{found.where}: not fetched: {short(error)}: check the network, model.variant, and for safetensors"
        ) from None


def load_network(where: str, kind: Any, folder: Path, variant: str | None, dtype: torch.dtype) -> nn.Module:
    """A network of diffusers or transformers, all of its weights there, used and finite.

    Raises:
        InputError: They are not, or a file is missing or damaged.
    """
    from transformers import PreTrainedModel

    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    if weights_of(folder, variant) != weights_of(folder, None):
        options["variant"] = variant
    if issubclass(kind, PreTrainedModel):
        options["ignore_mismatched_sizes"] = True  # or it prints a table, and says no name
    try:
        network, info = kind.from_pretrained(folder, **options)
    except Exception as error:  # as above
        raise InputError(f"{where}: {folder.name} not loaded: {short(error)}: get the folder anew") from None
    others = [str(name) for name, *_ in info["mismatched_keys"]]
    check_names(f"{where}: {folder.name}", network, [*info["missing_keys"], *others], info["unexpected_keys"])
    check_finite(f"{where}: {folder.name}", network)
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
    for names, fault in ((sorted(missing), "missing or of another size"), (unused, "not known to its class")):
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
        half = " or fp16 cannot hold them (model.dtype=bf16)" if weights[broken[0]].dtype == torch.float16 else ""
        raise InputError(f"{where}: {_some(broken)} not finite: its files are damaged{half or ', or training failed'}")


def _finite(tensor: torch.Tensor) -> bool:
    """Both ends of its range are, and NaN is either of them; it costs one reading and no memory."""
    return not tensor.numel() or all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more} {'are' if more else 'is'}"
