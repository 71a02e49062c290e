"""What a folder is made from: a single file, its configuration, LoRA files; looked at, and no weights read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from ddspo.backbones import _original
from ddspo.backbones._folder import files_of, weights_of
from ddspo.backbones._identity import identity
from ddspo.backbones._lora_files import LoraFile, check_lora
from ddspo.backbones._model import SINGLE, Found, Model, look_up
from ddspo.backbones._outline import outline
from ddspo.backbones.base import DTYPES, Backbone
from ddspo.components import backbone_of
from ddspo.digests import digest_of, files_identity
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


@dataclass(frozen=True)
class Source:
    """What is there to make a folder from, of which no weights are read.

    Attributes:
        origin: What was asked for.
        file: The single file, if it is one.
        header: Of that file.
        config: The model whose configuration it has.
        found: Its files.
        loras: In the order in which they are merged.
    """

    origin: Origin
    file: Path | None
    header: _original.Header
    config: Model
    found: Found
    loras: tuple[LoraFile, ...]

    @classmethod
    def of(cls, origin: Origin) -> "Source":
        """Find everything; whether it fits together, `changed` and `names` say."""
        loras = tuple(LoraFile.of(each) for each in origin.loras)
        file = _file(origin) if is_single(origin.place) else None
        if not file and origin.config:
            raise InputError(f"{origin.place}: a folder has its own configuration: leave --config out")
        if not file and not loras:
            raise InputError(f"{origin.place}: a folder already, and no --lora to merge")
        header = _original.header(file) if file else _original.Header({}, "fp32")
        config = Model(path=_config(origin, header.weights) if file else origin.place)
        with _telling(origin):
            return cls(origin, file, header, config, look_up(config), loras)

    @cached_property
    def outline(self) -> Backbone:
        """The model with its networks on "meta"."""
        with _telling(self.origin):
            return outline(backbone_of(self.config), self.config)

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """The file's names of each part that it holds, which are all of it."""
        return _check_names(self.origin, self.outline, self.header.weights) if self.file else {}

    @cached_property
    def changed(self) -> list[list[str]]:
        """Parts that each LoRA changes, of which every layer is there."""
        return [check_lora(self.outline, lora) for lora in self.loras]

    @property
    def absent(self) -> list[str]:
        """Parts whose weights are the configuration's own."""
        return [name for name in networks(self.outline) if name not in self.names] if self.file else []

    def check(self) -> None:
        """Whether everything fits together, and what is absent can be had.

        Raises:
            InputError: A name, a size or a part is wrong.
        """
        for part in () if self.found.online else self.absent:
            if not weights_of(self.found.folder / part, None):
                raise InputError(
                    f"{self.origin.place}: it holds no {part}, and {self.config.path} has no weights of it: "
                    "give --config a whole folder of the same family, or a hub id"
                )
        assert len(self.changed) == len(self.loras)

    def digests(self) -> list[str]:
        """Of every file that may go in, whatever it is called."""
        base = [digest_of(self.file), self._config_digest()] if self.file else [identity(self.config)]
        return [*base, *(digest_of(lora.path) for lora in self.loras)]

    def _config_digest(self) -> str:
        if self.found.commit:
            return self.found.commit
        trained = self.found.folder / backbone_of(self.config).denoiser_name
        files = [each for each in files_of(self.found, None) if each.parent != trained or each.suffix == ".json"]
        return files_identity(self.found.folder, [path for path in files if path.is_file()])

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
            "SD 1.x, SD 2.x, SDXL, SD3, SD3.5, FLUX.1, FLUX.2, Chroma, SANA, Lumina-Image 2.0, Qwen-Image or "
            "Z-Image; where it is one, name its kind by --config"
        )
    if kind in _original.UNTOLD:
        raise InputError(f"{origin.place}: {_original.UNTOLD[kind]}")
    return _original.usual_config(kind)


@contextmanager
def _telling(origin: Origin) -> Iterator[None]:
    """What is wrong with a file's configuration is told of the file."""
    try:
        yield
    except InputError as error:
        if not is_single(origin.place):
            raise
        said = str(error).removeprefix("model.path ")
        usual = f"{origin.place}: its configuration is that of {said}, which --config may name"
        raise InputError(f"--config {said}" if origin.config else usual) from None


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
