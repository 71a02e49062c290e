"""The network of a pipeline that predicts, and how the pipeline reads and writes a LoRA of it."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ddspo.backbones._quantize import compute_dtype, is_quantized

JOINT_ATTENTION = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
)
"""Layers of blocks in which image and text read each other, as a LoRA adapts them where nobody says otherwise."""


class WithDenoiser:
    """What of a backbone concerns its denoiser alone."""

    pipeline: Any
    denoiser_name: ClassVar[str]

    @property
    def denoiser(self) -> nn.Module:
        """The network that predicts."""
        return getattr(self.pipeline, self.denoiser_name)

    @property
    def config(self) -> Any:
        """The denoiser's configuration."""
        return self.denoiser.config

    @property
    def device(self) -> torch.device:
        """Where the denoiser is, or its input if its weights wait in main memory."""
        return next(self.denoiser.parameters()).device

    @property
    def compute_dtype(self) -> torch.dtype:
        """The precision in which the denoiser computes, whatever its weights are rounded to."""
        return compute_dtype(self.denoiser)

    @property
    def quantized(self) -> bool:
        """Whether weights of the denoiser are rounded to integers."""
        return is_quantized(self.denoiser)

    def save_lora(self, folder: Path, layers: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Write adapter weights as the pipeline's own LoRA file, rank and alpha in its header."""
        name = self.denoiser_name
        self.pipeline.save_lora_weights(
            folder, **{f"{name}_lora_layers": layers, f"{name}_lora_adapter_metadata": metadata}
        )

    def read_lora(self, folder: Path) -> dict[str, Tensor]:
        """Adapter weights, named as `save_lora` was given them."""
        prefix = f"{self.denoiser_name}."
        weights = load_file(folder / "pytorch_lora_weights.safetensors")
        return {name.removeprefix(prefix): value for name, value in weights.items()}

    def load_lora(self, folder: Path) -> None:
        """Read a LoRA file as any user of diffusers would, and merge it, so that sampling costs what it did.

        Beside quantised weights it stays what it is: rounded again with it, they would forget most of it.
        """
        self.pipeline.load_lora_weights(folder)
        if self.quantized:
            settle(self.denoiser)
        else:
            self.pipeline.fuse_lora(components=[self.denoiser_name])


def settle(network: nn.Module) -> None:
    """Put adapters, which peft makes like the layers beside them, into float32, where the network's input is."""
    device = next(network.parameters()).device
    for name, parameter in network.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(device, torch.float32)
