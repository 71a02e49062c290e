"""What an export is: it writes a trained result in the format of some tool, and says how to use it there."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from safetensors.torch import save_file
from torch import Tensor

from ddspo.backbones.base import DTYPES, Backbone, Model, look_up
from ddspo.errors import InputError
from ddspo.exports._adapter import LORA as LORA
from ddspo.exports._adapter import PEFT as PEFT
from ddspo.exports._adapter import Adapter, adapter_in, lora_files
from ddspo.files import settle_header
from ddspo.places import PACKAGE, local
from ddspo.saved import verify

Dtype = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Aligned:
    """A trained result and the base that it was made from.

    Attributes:
        name: The run's name.
        folder: Its `aligned/`.
        model: The base.
        backbone: Who reads the base.
    """

    name: str
    folder: Path
    model: Model
    backbone: type[Backbone]

    def check(self) -> None:
        """Fail where nothing was trained.

        Raises:
            InputError: The folder holds neither a LoRA nor a pipeline.
        """
        if not (self.is_lora or (self.folder / "model_index.json").is_file()):
            raise InputError(f"{self.folder}: holds neither {LORA} nor a pipeline: run `ddspo train` first")

    @property
    def is_lora(self) -> bool:
        """Whether it is a LoRA beside the base, and not a pipeline of its own."""
        return bool(self.lora_files)

    @property
    def lora_files(self) -> tuple[str, ...]:
        """Names of the files that make the LoRA up; none of a whole pipeline."""
        return lora_files(self.folder)

    @property
    def pipeline_class(self) -> str:
        """Class of the pipeline in diffusers."""
        return self.backbone.pipeline_class.__name__

    def adapter(self) -> Adapter:
        """The LoRA's layers, each with its scale.

        Raises:
            InputError: The file is broken, or lacks what tells its scale.
        """
        return adapter_in(self.folder, self.backbone.denoiser_name)

    def plain(self, name: str) -> Adapter:
        """The LoRA's layers, for a format whose update of a weight is scale * B A and nothing else.

        Raises:
            InputError: As `adapter` says, or it is a DoRA.
        """
        found = self.adapter()
        if found.dora:
            raise InputError(f"{self.folder}: is a DoRA, no plain LoRA for {name}: use --format diffusers or merged")
        return found

    @property
    def base(self) -> str:
        """What people call the base: its hub id, its place in a package, or a folder's name without the way there."""
        path = self.model.hub_id or self.model.path
        if self.model.hub_id or path.startswith(PACKAGE) or local(path) is None:
            return path.removeprefix(PACKAGE)
        return path.rstrip("/").rpartition("/")[2]

    @property
    def hub_id(self) -> str | None:
        """Where anyone finds the base, as far as is known."""
        return self.model.hub_id or (self.model.path if local(self.model.path) is None else None)

    def code(self, *lines: str, pipeline: str = "") -> str:
        """Python, indented as a Markdown code block, that loads a pipeline and makes an image.

        Args:
            lines: What comes between the two.
            pipeline: Arguments of `from_pretrained`; the base's where empty.
        """
        head, arguments = ["import torch", f"from diffusers import {self.pipeline_class}"], pipeline
        if not pipeline and self.hub_id is None and self.model.path.startswith(PACKAGE):
            package, _, rest = self.model.path.removeprefix(PACKAGE).partition("/")
            head, arguments = ["from importlib.resources import files", *head], f"files({package!r}) / {rest!r}"
        elif not pipeline:
            pins = {"revision": self.model.revision, "variant": self.model.variant}
            arguments = ", ".join([repr(self.base), *(f"{key}={value!r}" for key, value in pins.items() if value)])
        folder = local(self.model.path)
        at_hand = folder is not None and (folder / "model_index.json").is_file()
        told = look_up(self.model).told(self.model) if at_hand else self.model
        side, length = told.resolution, told.max_length
        call = {"height": side, "width": side, "max_sequence_length": length}
        more = "".join(f", {name}={value}" for name, value in call.items() if value)
        last = (
            f"image = pipeline(prompt='a red cube on a blue sphere', generator=torch.manual_seed(0){more}).images[0]"
        )
        where = "" if pipeline or self.hub_id or self.model.path.startswith(PACKAGE) else "  # the base's own folder"
        rows = [*head, "", f"pipeline = {self.pipeline_class}.from_pretrained({arguments}){where}", *lines, last]
        return "".join(f"    {row}".rstrip() + "\n" for row in rows)


class Export(ABC):
    """A format.

    Attributes:
        suffix: Of its one file; empty for a folder.
        keeps_lora: Whether a LoRA stays one.
    """

    suffix: ClassVar[str]
    keeps_lora: ClassVar[bool] = True

    @abstractmethod
    def check(self, aligned: Aligned) -> None:
        """Fail early where the format does not exist for a result.

        Raises:
            InputError: It does not; names those that do.
        """

    @abstractmethod
    def write(self, aligned: Aligned, path: Path) -> None:
        """Write the file or folder `path`."""

    @abstractmethod
    def usage(self, aligned: Aligned, where: str) -> str:
        """How to use what lies at `where`, in Markdown."""


def needs_lora(aligned: Aligned, name: str) -> None:
    """Fail for a result that is a pipeline of its own.

    Raises:
        InputError: It is one.
    """
    if not aligned.is_lora:
        raise InputError(
            f"{aligned.folder}: is a whole pipeline, no LoRA for {name}: use --format diffusers or merged"
        )


def save(weights: Mapping[str, Tensor], path: Path, dtype: Dtype, notes: Mapping[str, str]) -> None:
    """Write a LoRA file, and read it again; alphas stay in float32.

    Raises:
        InputError: A weight is too large for the precision, or the file is not what was written.
    """
    cast = {key: rows if key.endswith(".alpha") else rows.to(DTYPES[dtype]) for key, rows in weights.items()}
    if not all(rows.isfinite().all() for rows in cast.values()):
        raise InputError(f"{path.name}: weights are too large for {dtype}: use --dtype bf16 or fp32")
    save_file({key: rows.clone().contiguous() for key, rows in cast.items()}, path, metadata={"format": "pt", **notes})
    settle_header(path)
    verify([path], cast)
