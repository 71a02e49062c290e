"""What a pipeline folder holds: its parts, the files that are read of each, and what is wrong with them."""

import importlib
import inspect
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ddspo.backbones._model import Found, Model, short
from ddspo.errors import InputError, quoted
from ddspo.hub import FILES

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

LIBRARIES = {
    "diffusers": "diffusers",
    "transformers": "transformers",
    "kolors": "diffusers.pipelines.kolors",
}
"""Modules that parts come from, by the name that a folder has for them."""

UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that neither read a prompt nor predict nor decode."""

WEIGHTS = re.compile(r"(?:diffusion_pytorch_)?model(?:\.([\w-]+?))?(?:-\d+-of-\d+)?(?:\.([\w-]+?))?\.safetensors")
"""Names of files of weights, all of them or one of several, with a variant before or after the numbers."""

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack")
ADAPTERS = ("adapter_config.json", "pytorch_lora_weights.safetensors")


def parts_of(index: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Library and class of each part that is there and is used, by its name in the pipeline."""
    entries = {name: entry for name, entry in index.items() if isinstance(entry, list) and name not in UNUSED}
    return {name: (str(entry[0]), str(entry[1])) for name, entry in entries.items() if len(entry) == 2 and all(entry)}


def class_of(library: str, name: str) -> Any:
    """A class of diffusers or transformers; None for any other library, which is not imported."""
    found = getattr(importlib.import_module(LIBRARIES[library]), name, None) if library in LIBRARIES else None
    return found if isinstance(found, type) else None


def _missing(kind: Any) -> str:
    """Packages without which a class of transformers is a name alone."""
    from transformers.utils.import_utils import DummyObject

    packages = kind._backends if isinstance(kind, DummyObject) else ()
    return ", ".join(each for each in packages if find_spec(each) is None)


def is_network(kind: Any) -> bool:
    """Whether a part has weights."""
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

    return isinstance(kind, type) and issubclass(kind, ModelMixin | PreTrainedModel)


def networks_of(found: Found, kind: "type[DiffusionPipeline]") -> dict[str, Any]:
    """Class of each part of a model that has weights and that a pipeline takes, by its name."""
    takes = inspect.signature(kind.__init__).parameters
    classes = {name: class_of(*entry) for name, entry in parts_of(found.model_index).items() if name in takes}
    return {name: each for name, each in classes.items() if is_network(each)}


def left_out(found: Found, kind: "type[DiffusionPipeline]") -> dict[str, Any]:
    """What a pipeline must be told of the parts that it is made without: those not used, and those not there."""
    takes, parts = inspect.signature(kind.__init__).parameters, parts_of(found.model_index)
    absent = dict.fromkeys(name for name in (*_needed(kind), *UNUSED) if name in takes and name not in parts)
    return absent | ({"requires_safety_checker": False} if "requires_safety_checker" in takes else {})


def weights_of(part: Path, variant: str | None) -> list[Path]:
    """The files of weights that a part is loaded from: those of a variant, or else those without one."""
    found = _by_variant(part)
    return found.get(variant) or found.get(None, [])


def files_of(found: Found, variant: str | None) -> list[Path]:
    """Every file of a folder that loading reads."""
    files = [found.folder / "model_index.json"]
    for name in parts_of(found.model_index):
        part = found.folder / name
        files += [path for kind in FILES for path in part.glob(kind) if path.is_file()] + weights_of(part, variant)
    return files


def check_parts(found: Found, kind: "type[DiffusionPipeline]", may_lack: Iterable[str]) -> None:
    """Refuse a model that lacks a part of a pipeline, or whose parts come from anywhere but the two libraries.

    Raises:
        InputError: It does.
    """
    parts = parts_of(found.model_index)
    for name in _needed(kind):
        if name not in (*parts, *UNUSED, *may_lack):
            raise InputError(f"{found.where}: it has no {name}, which a {kind.__name__} needs: give a whole folder")
    for name, entry in parts.items():
        part = class_of(*entry)
        if part is None:
            what = ".".join(entry)
            raise InputError(f"{found.where}: {name} is a {what}, which is no class of diffusers or transformers")
        missing = _missing(part)
        if missing:
            raise InputError(f"{found.where}: {name} is a {entry[1]}, which needs {missing}: install it")
        if not (found.folder / name).is_dir():
            raise InputError(f"{found.where}: its folder {name} is missing: get the folder anew")
        if is_network(part):
            found.config(f"{name}/config.json")


def check_channels(found: Found, denoiser: str, times: int) -> None:
    """Refuse a denoiser that takes more than a noisy latent: an image, or a mask.

    Args:
        found: The model.
        denoiser: Name of the part that predicts.
        times: Channels of its input for one of a latent.

    Raises:
        InputError: It takes more.
    """
    named = inspect.signature(class_of(*parts_of(found.model_index)["vae"])).parameters
    latent = "z_dim" if "z_dim" in named else "latent_channels"  # as autoencoders of videos call them
    takes, makes = _option(found, denoiser, "in_channels"), times * _option(found, "vae", latent)
    if takes != makes:
        raise InputError(
            f"{found.where}: its {denoiser} takes {takes} channels, and one that makes images from text alone takes "
            f"{makes} with this autoencoder: a model that fills (9) or edits (8) images is not supported: give another"
        )


def check_weights(found: Found, model: Model, networks: Iterable[str]) -> None:
    """Refuse a folder whose parts have no files of weights that may be read.

    Raises:
        InputError: One has none; says what is there in their place.
    """
    parts = {name: found.folder / name for name in networks}
    variants = {name: _by_variant(part) for name, part in parts.items()}
    if model.variant and not any(model.variant in each for each in variants.values()):
        raise InputError(f"model.variant {model.variant}: {model.path} has no files of it: leave it out")
    for name, part in parts.items():
        where, others = f"{found.where}: {name}", sorted(map(str, variants[name]))
        if any((part / each).exists() for each in ADAPTERS):
            raise InputError(f"{where} holds an adapter beside its weights: merge the two and save it again")
        files = weights_of(part, model.variant)
        if files:
            _check_files(where, files)
            continue
        if others:
            raise InputError(f"{where} has weights of variant {' or '.join(others)} only: model.variant={others[0]}")
        if any(path for kind in PICKLES for path in part.glob(kind)):
            raise InputError(
                f"{where} has no safetensors, and pickles may run code: where you trust them, load the pipeline in "
                "diffusers and call save_pretrained(FOLDER, safe_serialization=True)"
            )
        raise InputError(f"{where} has no weights (*.safetensors): get the folder anew")


def _check_files(where: str, files: Iterable[Path]) -> None:
    """Whether they are as long as their beginnings say."""
    for path in files:
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(f"{where}/{path.name} is damaged ({short(error)}): get the folder anew") from None


def _needed(kind: "type[DiffusionPipeline]") -> list[str]:
    parameters = inspect.signature(kind).parameters.values()
    return [each.name for each in parameters if each.default is each.empty]


def _by_variant(part: Path) -> dict[str | None, list[Path]]:
    found: dict[str | None, list[Path]] = {}
    for path in sorted(part.glob("*.safetensors")):
        name = WEIGHTS.fullmatch(path.name)
        if name:
            found.setdefault(name[1] or name[2], []).append(path)
    return found


def _option(found: Found, name: str, option: str) -> int:
    """Of a network's configuration, or its class's default."""
    default = inspect.signature(class_of(*parts_of(found.model_index)[name])).parameters[option].default
    value = found.config(f"{name}/config.json").get(option, default)
    if not isinstance(value, int):
        raise InputError(f"{found.where}: {name}/config.json: {option} is {quoted(value)}: get the folder anew")
    return value
