"""PixArt: T5 text with its mask, epsilon beside a learned variance."""

from abc import ABC
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddspo.backbones import _tiny
from ddspo.backbones._denoiser import settle
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition

PREFIX = "base_model.model."
"""PEFT's own, of every weight."""
SIZES = ("resolution", "aspect_ratio")
"""What some of these transformers are told of an image, as its own part of their input."""


class AnyPixArt(Backbone, ABC):
    """What PixArt-alpha and PixArt-Sigma share.

    Prompts are made lower case, as in the pipelines, but their cleaning of captions is off: it depends on two packages
    that may be missing, and then silently does nothing. diffusers has no LoRA loader for these pipelines; a LoRA is
    saved in PEFT's own format, for `PeftModel.from_pretrained(pipeline.transformer, folder)`.
    """

    denoiser_name = "transformer"
    lower = True
    guidance = 4.5
    steps = 20

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """T5's hidden states, [B, tokens, width], and which of them are text, [B, tokens]."""
        hidden, mask, _, _ = self.pipeline.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, device=self.device, max_sequence_length=self.max_length
        )
        return {"encoder_hidden_states": hidden, "encoder_attention_mask": mask}

    def forward(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The first half of the channels is epsilon, the second the variance, which no sampler uses."""
        text = {name: rows for name, rows in condition.items() if name not in SIZES}
        added = {name: condition.get(name) for name in SIZES}
        both = denoiser(x_t, timestep=t, added_cond_kwargs=added, **text, return_dict=False)[0]
        return both[:, : x_t.shape[1]]

    @property
    def call(self) -> dict[str, Any]:
        """Exactly the latents' size, and prompts as they are."""
        return super().call | {"use_resolution_binning": False, "clean_caption": False}

    def save_lora(self, folder: Path, layers: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Write adapter_model.safetensors and adapter_config.json."""
        config = LoraConfig(**metadata)
        config.target_modules = metadata["target_modules"]  # whose order PEFT's own set would leave to chance
        config.save_pretrained(str(folder))
        named = {f"{PREFIX}{name}": value.contiguous() for name, value in layers.items()}
        save_file(named, folder / "adapter_model.safetensors", {"format": "pt"})

    def read_lora(self, folder: Path) -> dict[str, Tensor]:
        """Adapter weights, named as `save_lora` was given them."""
        weights = load_file(folder / "adapter_model.safetensors")
        return {name.removeprefix(PREFIX): value for name, value in weights.items()}

    def load_lora(self, folder: Path) -> None:
        """Read it with PEFT, and merge it unless weights are quantised."""
        model = PeftModel.from_pretrained(self.denoiser, str(folder))
        if self.quantized:
            settle(self.denoiser)  # whose layers have the adapter beside them now
        else:
            self.pipeline.transformer = model.merge_and_unload()

    @classmethod
    def tiny_pipeline(cls, **transformer: Any) -> Any:
        """One-letter tokens, two blocks of two heads, and what is said of the transformer."""
        torch.manual_seed(0)
        return cls.pipeline_class(
            transformer=PixArtTransformer2DModel(
                num_layers=2, num_attention_heads=2, caption_channels=2 * _tiny.WIDTH, **transformer
            ),
            scheduler=DPMSolverMultistepScheduler(beta_schedule="linear"),
            vae=_tiny.autoencoder(scaling_factor=0.13025),
            text_encoder=_tiny.t5_encoder(2 * _tiny.WIDTH),
            tokenizer=_tiny.t5_tokenizer(),
        )
