"""The base with the LoRA added into its weights: an ordinary pipeline folder, for whatever reads those."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from diffusers.loaders.lora_base import LoraBaseMixin
from typing_extensions import Doc

from ddspo.backbones.base import DTYPES
from ddspo.exports.base import Aligned, Dtype, Export


@dataclass(frozen=True)
class Merged(Export):
    """W + (alpha / rank) B A in place of W, added in float32 and rounded once."""

    dtype: Annotated[Dtype | None, Doc("precision of all weights; null keeps the base's")] = None
    suffix: ClassVar[str] = ""
    keeps_lora: ClassVar[bool] = False

    def check(self, aligned: Aligned) -> None:
        """Whatever was trained has this format."""
        aligned.check()

    def write(self, aligned: Aligned, path: Path) -> None:
        """Look into the LoRA, load the base, add, save."""
        if aligned.is_lora:
            aligned.adapter()
            backbone = aligned.backbone.load(dataclasses.replace(aligned.model, quantize=None, offload=False))
            kept = backbone.compute_dtype
            backbone.denoiser.to(torch.float32)
            backbone.load_lora(aligned.folder)
            if isinstance(backbone.pipeline, LoraBaseMixin):
                backbone.pipeline.unload_lora_weights()
            backbone.denoiser.to(kept)
        else:
            whole = dataclasses.replace(aligned.model, path=str(aligned.folder), revision=None, variant=None)
            backbone = aligned.backbone.load(whole)
        if self.dtype:
            backbone.pipeline.to(dtype=DTYPES[self.dtype])
        backbone.save(path)

    def usage(self, aligned: Aligned, where: str) -> str:
        """Lines of Python."""
        return aligned.code(pipeline=repr(where))
