"""One LoRA file that ComfyUI's own loader reads: of the pipelines in `AS_KOHYA` and `TRANSFORMERS`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from typing_extensions import Doc

from ddspo.errors import InputError
from ddspo.exports._keys import scaled
from ddspo.exports.base import Aligned, Dtype, Export, needs_lora, save
from ddspo.exports.kohya import rename

AS_KOHYA = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "Lumina2Pipeline")
"""Pipelines whose layers ComfyUI finds by kohya's names alone: it has no list of Lumina 2's names in diffusers."""
ATTENTION = r"to_[qkv]|to_out\.0"
AURA = r"linear_[12]|out_projection"
HIDREAM = r"ff_[it]\.((shared_experts|experts\.\d+)\.)?w[123]|adaLN_modulation\.1"
JOINT = rf"{ATTENTION}|add_[qkv]_proj|to_add_out"
PIXART = rf"transformer_blocks\.\d+\.(attn[12]\.({ATTENTION})|ff\.net\.(0\.proj|2))"
FLUX2 = (
    rf"transformer_blocks\.\d+\.(attn\.({JOINT})|ff(_context)?\.linear_(in|out))"
    r"|single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)"
)
TRANSFORMERS = {
    "StableDiffusion3Pipeline": rf"transformer_blocks\.\d+\.(attn2?\.({JOINT})|ff(_context)?\.net\.(0\.proj|2))",
    "FluxPipeline": rf"transformer_blocks\.\d+\.(attn\.({JOINT})|ff(_context)?\.net\.(0\.proj|2))"
    r"|transformer_blocks\.\d+\.norm1(_context)?\.linear"
    r"|single_transformer_blocks\.\d+\.(attn\.to_[qkv]|proj_mlp|proj_out|norm\.linear)",
    "ChromaPipeline": rf"transformer_blocks\.\d+\.(attn\.({JOINT})|ff(_context)?\.net\.(0\.proj|2))"
    r"|single_transformer_blocks\.\d+\.(attn\.to_[qkv]|proj_mlp|proj_out)",
    "Flux2KleinPipeline": FLUX2,
    "Flux2Pipeline": FLUX2,
    "AuraFlowPipeline": rf"joint_transformer_blocks\.\d+\.(attn\.({JOINT})|norm1_context\.linear|ff_context\.({AURA}))"
    rf"|(joint|single)_transformer_blocks\.\d+\.(attn\.({ATTENTION})|norm1\.linear|ff\.({AURA}))",
    "HiDreamImagePipeline": rf"(double|single)_stream_blocks\.\d+\.block\.(attn1\.to_(q|k|v|out)(_t)?|{HIDREAM})",
    "QwenImagePipeline": rf"transformer_blocks\.\d+\.(attn\.({JOINT})|(img|txt)_(mlp\.net\.(0\.proj|2)|mod\.1))",
    "ZImagePipeline": rf"(layers|(context|noise)_refiner)\.\d+\.(attention\.({ATTENTION})|feed_forward\.w[123])"
    r"|(layers|noise_refiner)\.\d+\.adaLN_modulation\.0",
    "PixArtAlphaPipeline": PIXART,
    "PixArtSigmaPipeline": PIXART,
}
"""Modules that ComfyUI finds under `transformer.` and their name in diffusers (comfy/lora.py, comfy/utils.py).

It fuses query, key and value of Z-Image, and puts each part's update into its third of the rows.
"""


@dataclass(frozen=True)
class ComfyUI(Export):
    """Kohya's names for U-Nets and Lumina 2; for others diffusers' names, the scale alpha / rank inside the matrices.

    ComfyUI reads no header, and skips a key that it does not know: what it has no place for is refused here.
    """

    dtype: Annotated[Dtype, Doc("precision of the matrices")] = "fp32"
    suffix: ClassVar[str] = ".safetensors"

    def check(self, aligned: Aligned) -> None:
        """Only pipelines that ComfyUI itself knows."""
        aligned.check()
        needs_lora(aligned, "comfyui")
        if aligned.pipeline_class not in (*AS_KOHYA, *TRANSFORMERS):
            raise InputError(f"comfyui: no such format for {aligned.pipeline_class}: use --format diffusers or merged")

    def write(self, aligned: Aligned, path: Path) -> None:
        """Rename and save."""
        adapter = aligned.plain("comfyui")
        if aligned.pipeline_class in AS_KOHYA:
            weights = rename(adapter, aligned)
        else:
            for name in adapter.layers:
                if not re.fullmatch(TRANSFORMERS[aligned.pipeline_class], name):
                    raise InputError(f"ComfyUI has no place for {name}: use --format diffusers or merged")
            weights = scaled(adapter, "transformer")
        save(weights, path, self.dtype, {})

    def usage(self, aligned: Aligned, where: str) -> str:
        """Where ComfyUI looks for it."""
        return f"Put `{where}` into `ComfyUI/models/loras`, and a `LoraLoaderModelOnly` node behind the base model.\n"
