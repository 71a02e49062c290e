"""Low-rank adapters beside the attention weights: the base exists once, and is the reference."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Gt
from diffusers.training_utils import cast_training_params
from diffusers.utils.peft_utils import set_adapter_layers
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from torch import Tensor, nn
from typing_extensions import Doc

from ddspo.adaptations.base import Adaptation, Reference
from ddspo.backbones.base import Backbone

NAME = "default"


@dataclass(frozen=True)
class LoRA(Adaptation):
    """W + (alpha / rank) B A with A Gaussian and B zero at the start (Hu et al. 2021), saved as a diffusers LoRA."""

    saves_pipeline = False

    rank: Annotated[int, Gt(0), Doc("inner dimension")] = 16
    alpha: Annotated[float, Gt(0), Doc("scale; the update is multiplied by alpha / rank")] = 16.0
    targets: Annotated[
        tuple[str, ...] | None, Doc("module names that get an adapter; null: those of the backbone's attention")
    ] = None

    def attach(self, backbone: Backbone, seed: int) -> Reference:
        """Add the adapter, in float32; the reference is the same network with the adapter off."""
        denoiser: Any = backbone.denoiser
        denoiser.requires_grad_(False)
        targets = list(self.targets or backbone.lora_targets)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = LoraConfig(
                r=self.rank, lora_alpha=self.alpha, target_modules=targets, init_lora_weights="gaussian"
            )
            # By peft itself, because not every diffusers model has the `add_adapter` that would do the same.
            inject_adapter_in_model(config, denoiser, NAME)
        cast_training_params(denoiser, dtype=torch.float32)
        return partial(_adapter_off, denoiser)

    def weights(self, denoiser: Any) -> dict[str, Tensor]:
        """The adapter's A and B."""
        return get_peft_model_state_dict(denoiser, adapter_name=NAME)

    def restore(self, denoiser: Any, weights: dict[str, Tensor]) -> None:
        """Put A and B back."""
        set_peft_model_state_dict(denoiser, weights, adapter_name=NAME)

    def save(self, backbone: Backbone, folder: Path) -> None:
        """Write pytorch_lora_weights.safetensors with rank and alpha in its header."""
        denoiser: Any = backbone.denoiser
        backbone.save_lora(folder, self.weights(denoiser), denoiser.peft_config[NAME].to_dict())

    def load(self, backbone: Backbone, folder: Path) -> None:
        """`load_lora_weights`."""
        backbone.load_lora(folder)


@contextmanager
def _adapter_off(denoiser: Any) -> Iterator[nn.Module]:
    """The base; afterwards the adapter and every requires_grad are as before (peft's switches move the flags)."""
    flags = [(parameter, parameter.requires_grad) for parameter in denoiser.parameters()]
    set_adapter_layers(denoiser, enabled=False)
    try:
        yield denoiser
    finally:
        set_adapter_layers(denoiser, enabled=True)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
