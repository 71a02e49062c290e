"""What a folder is made from: a single file, its configuration, LoRA files; looked at, and no weights read."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from ddspo.backbones import _original
from ddspo.backbones._folder import weights_of
from ddspo.backbones._identity import identity
from ddspo.backbones._lora_files import LoraFile, check_lora
from ddspo.backbones._model import SINGLE, Found, Model, look_up
from ddspo.backbones._outline import outline
from ddspo.backbones.base import DTYPES, Backbone
from ddspo.components import backbone_of
from ddspo.digests import digest_of
from ddspo.errors import InputError, quoted
from ddspo.hub import fetched_parts
from ddspo.places import local


@dataclass(frozen=True)
class Origin:
    """What a folder is made from.

    Attributes:
        place: A .safetensors file, or, with LoRAs, a diffusers folder or hub id.
        loras: FILE or FILE:SCALE, merged in this order.
        config: Folder or hub id whose configuration, tokenizers and missing parts a file takes; None: its kind's.
    """

    place: str
    loras: tuple[str, ...] = ()
    config: str | None = None


def is_single(place: str) -> bool:
    """Whether a place is, or is called as, one file that holds a model."""
    folder = local(place)
    return place.endswith(SINGLE) and (folder is None or not folder.is_dir())


class Source(NamedTuple):
    """What is there to make a folder from, looked at, of which no weights are read."""

    origin: Origin
    file: Path | None
    header: _original.Header
    config: Model
    found: Found
    outline: Backbone
    """The model with its networks on "meta"."""
    names: dict[str, list[str]]
    """The file's names of each part that it holds."""
    loras: list[tuple[LoraFile, list[str]]]

    @classmethod
    def of(cls, origin: Origin) -> "Source":
        """Look at everything."""
        loras = [LoraFile.of(each) for each in origin.loras]
        file = _file(origin) if is_single(origin.place) else None
        if not file and (origin.config or not loras):
            fault = "--config is for a single file" if origin.config else "a folder already, and no --lora to merge"
            raise InputError(f"{origin.place}: {fault}: leave it out" if origin.config else f"{origin.place}: {fault}")
        header = _original.header(file) if file else _original.Header({}, "fp32")
        weights = header.weights
        config = Model(path=_config(origin, weights) if file else origin.place)
        found, backbone = _look_up(origin, config, file)
        names = _check_names(origin, backbone, weights) if file else {}
        changed = [(lora, check_lora(backbone, lora)) for lora in loras]
        source = cls(origin, file, header, config, found, backbone, names, changed)
        source.check_absent()
        return source

    @property
    def absent(self) -> list[str]:
        """Parts whose weights are the configuration's own."""
        return [name for name in networks(self.outline) if name not in self.names] if self.file else []

    def check_absent(self) -> None:
        """Whether they can be had."""
        for part in () if self.found.online else self.absent:
            if not weights_of(self.found.folder / part, None):
                raise InputError(
                    f"{self.origin.place}: it holds no {part}, and {self.config.path} has no weights of it: "
                    "give --config a whole folder of the same family, or a hub id"
                )

    def digests(self) -> list[str]:
        """Of every file that goes in, whatever it is called."""
        base = [digest_of(self.file)] if self.file else [identity(self.config)]
        return [*base, *(digest_of(lora.path) for lora, _ in self.loras), self.found.commit or ""]

    def fetch(self) -> None:
        """What of the hub is still missing."""
        if self.found.online and self.found.commit and self.absent:
            fetched_parts(self.config.path, self.found.commit, self.absent)

    def bytes(self, dtype: str) -> int:
        """Of the folder's weights."""
        width, parts = DTYPES[dtype].itemsize, networks(self.outline)
        return sum(width * sum(each.numel() for each in part.parameters()) for part in parts.values())


def networks(backbone: Backbone) -> dict[str, nn.Module]:
    """The parts of a pipeline that have weights, by their names."""
    return {name: part for name, part in backbone.pipeline.components.items() if isinstance(part, nn.Module)}


def _file(origin: Origin) -> Path:
    path = local(origin.place)
    if path is None or not path.is_file():
        raise InputError(f"{origin.place}: no such file: give the path of one that is on this machine")
    if path.suffix != ".safetensors":
        raise InputError(
            f"{origin.place}: only .safetensors is read (a pickle may run code, and gguf is quantised): get the model "
            "in that format"
        )
    return path


def _config(origin: Origin, weights: dict[str, Tensor]) -> str:
    """The model whose configuration a file has: the one that is given, or the usual one of its kind."""
    if origin.config:
        return origin.config
    kind = _original.family(weights)
    if kind is None:
        name = quoted(next(iter(sorted(weights)), "nothing"))
        raise InputError(
            f"{origin.place}: no text-to-image model that is known by the names of its weights ({name} ...): give "
            "SD 1.x, SD 2.x, SDXL, SD3, SD3.5, FLUX.1 or SANA; where it is one, name its kind by --config"
        )
    if kind == "v2":
        raise InputError(
            f"{origin.place}: SD 2.x, of which the weights do not say whether they predict v or noise: give "
            "--config stabilityai/stable-diffusion-2-1 (768 pixels, v) or stabilityai/stable-diffusion-2-1-base"
        )
    return _original.usual_config(kind)


def _look_up(origin: Origin, config: Model, file: Path | None) -> tuple[Found, Backbone]:
    """The model of the configuration, without weights."""
    try:
        found = look_up(config)
        return found, outline(backbone_of(config), config)
    except InputError as error:
        if file is None:
            raise
        said = str(error).removeprefix("model.path ")
        raise InputError(
            f"{said}: the configuration of {origin.place} is read from there: --config FOLDER gives another"
            if origin.config is None
            else f"--config {said}"
        ) from None


def _check_names(origin: Origin, backbone: Backbone, weights: dict[str, Tensor]) -> dict[str, list[str]]:
    """Every part of a file, by the names that it has there; what is wrong with one is said before any is read."""
    parts = networks(backbone)
    names = {part: _original.names_of(part, network, weights) for part, network in parts.items()}
    held = {part: found for part, found in names.items() if found}
    if backbone.denoiser_name not in held:
        raise InputError(
            f"{origin.place}: it holds no {backbone.denoiser_name}, which is what is trained: give another"
        )
    for part, found in held.items():
        named = {name: weights[name] for name in found}
        _original.translated(origin.place, part, parts[part], named)
    return held
