"""One LoRA file with kohya's names, for sd-scripts, A1111, Forge, ComfyUI: SD, SDXL, FLUX.1, Chroma, Lumina 2."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from torch import Tensor
from typing_extensions import Doc

from ddspo.backbones._model import read_object
from ddspo.backbones.base import look_up
from ddspo.errors import InputError
from ddspo.exports._adapter import Adapter
from ddspo.exports._keys import kohya, kohya_flux, kohya_lumina2, ldm_name, unet_name
from ddspo.exports.base import Aligned, Dtype, Export, needs_lora, save

NETWORKS = {
    "StableDiffusionPipeline": "networks.lora",
    "StableDiffusionXLPipeline": "networks.lora",
    "FluxPipeline": "networks.lora_flux",
    "ChromaPipeline": "networks.lora_flux",
    "Lumina2Pipeline": "networks.lora_lumina",
}
"""Pipelines that have this format, and the module of sd-scripts that reads it."""


@dataclass(frozen=True)
class Kohya(Export):
    """lora_unet_*.{lora_down, lora_up, alpha}, the module names as sd-scripts has them for each model."""

    dtype: Annotated[Dtype, Doc("precision of the matrices")] = "fp32"
    suffix: ClassVar[str] = ".safetensors"

    def check(self, aligned: Aligned) -> None:
        """Only where diffusers' own loader reads the format back, which is how it is tested."""
        aligned.check()
        needs_lora(aligned, "kohya")
        if aligned.pipeline_class not in NETWORKS:
            raise InputError(f"kohya: no such format for {aligned.pipeline_class}: use --format diffusers or merged")

    def write(self, aligned: Aligned, path: Path) -> None:
        """Rename and save, with rank and alpha in the header too."""
        adapter = aligned.plain("kohya")
        layers = adapter.layers.values()
        notes = {
            "ss_network_module": NETWORKS[aligned.pipeline_class],
            "ss_network_dim": _one([layer.rank for layer in layers]),
            "ss_network_alpha": _one([round(layer.alpha, 6) for layer in layers]),
        }
        save(rename(adapter, aligned), path, self.dtype, notes)

    def usage(self, aligned: Aligned, where: str) -> str:
        """Where each tool looks for it."""
        return (
            f"Put `{where}` beside your other LoRA files: `models/Lora` in A1111 and Forge, `models/loras` in "
            "ComfyUI; sd-scripts takes it as `--network_weights`.\n"
        )


def _one(values: list[float] | list[int]) -> str:
    """What all are, as sd-scripts says it."""
    return str(values[0]) if len(set(values)) == 1 else "Dynamic"


def rename(adapter: Adapter, aligned: Aligned) -> dict[str, Tensor]:
    """The weights under kohya's names, as its network for this pipeline has them."""
    if NETWORKS[aligned.pipeline_class] == "networks.lora_flux":
        return kohya_flux(adapter)
    if aligned.pipeline_class == "StableDiffusionPipeline":
        return kohya(adapter, unet_name)
    config = _config(aligned)
    if aligned.pipeline_class == "Lumina2Pipeline":
        heads, shared, width = (config[key] for key in ("num_attention_heads", "num_kv_heads", "hidden_size"))
        return kohya_lumina2(adapter, (width, width // heads * shared, width // heads * shared))
    return kohya(adapter, lambda name: ldm_name(name, config["layers_per_block"]))


def _config(aligned: Aligned) -> dict[str, Any]:
    """Of the base's denoiser."""
    folder = look_up(aligned.model).folder / aligned.backbone.denoiser_name
    return read_object(folder, "config.json", f"model.path {aligned.model.path}")
