"""Lumina-Image 2.0: Gemma-2 behind a system prompt, a clock that ends at the image, CFG that keeps norms; flow."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2Model

from ddspo.backbones import _tiny
from ddspo.backbones._positions import check_positions
from ddspo.backbones._readers import Reader
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition

START = " <Prompt Start> "
"""What the pipeline writes between its system prompt and the prompt."""


class Lumina2(Backbone):
    """`Lumina2Pipeline` folders and hub ids (Lumina-Image 2.0 and its fine-tunes).

    The network's clock is 0 at noise and 1 at the image, and it predicts x_0 - noise; `predict` negates that, so that
    the prediction is noise - x_0 as in any other flow. Guidance is the pipeline's own, rescaled to the norm of the
    prediction with the prompt; it is on at every step.
    """

    pipeline_class = Lumina2Pipeline
    denoiser_name = "transformer"
    guidance = 4.0
    steps = 30
    long_text = 256

    def __init__(self, pipeline: Any, **options: Any) -> None:
        super().__init__(pipeline, **options)
        patches = self.latent_shape[1] // self.config.patch_size
        check_positions(self, self.max_length or 0, patches, self.config.axes_lens)
        self.denoiser.get_submodule("rope_embedder").register_forward_pre_hook(_whole)

    @classmethod
    def dtypes(cls, wanted: torch.dtype) -> dict[str, torch.dtype]:
        """Gemma-2 is bf16 where the transformer is in half precision: its activations overflow in fp16."""
        return {"default": wanted} | ({} if wanted == torch.float32 else {"text_encoder": torch.bfloat16})

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Gemma's last hidden states but one, [B, tokens, width], and which of them are text, [B, tokens]."""
        hidden, mask, _, _ = self.pipeline.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, device=self.device, max_sequence_length=self.max_length
        )
        return {"encoder_hidden_states": hidden, "encoder_attention_mask": mask}

    def forward(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """At the clock 1 - t / 1000, and negated."""
        clock = 1 - t / self.pipeline.scheduler.config.num_train_timesteps
        return -denoiser(x_t, timestep=clock, **condition, return_dict=False)[0]

    def readers(self) -> list[Reader]:
        """Gemma reads the system prompt and then the prompt."""
        return [replace(reader, prefix=self.pipeline.system_prompt + START) for reader in super().readers()]

    @property
    def tokens(self) -> int:
        """What the pipeline has a shift depend on, where its scheduler asks for that: not positions, but channels."""
        return int(self.config.in_channels)

    @property
    def _multiple(self) -> int:
        return int(self.pipeline.vae_scale_factor * self.config.patch_size)

    @classmethod
    def tiny(cls) -> Self:
        """8 x 8 latents, a byte pair tokenizer of the system prompt itself, 24 tokens, 0.1 M parameters."""
        torch.manual_seed(0)
        system = "You are an assistant designed to generate superior images with the superior degree of image-text"
        tokenizer = _tiny.gemma_tokenizer(f"{system} alignment based on textual prompts or user prompts.{START}")
        text = _tiny.language_config(Gemma2Config, tokenizer)
        pipeline = Lumina2Pipeline(
            transformer=Lumina2Transformer2DModel(
                sample_size=8,
                in_channels=4,
                hidden_size=32,
                num_layers=2,
                num_refiner_layers=1,
                num_attention_heads=2,
                num_kv_heads=1,
                multiple_of=8,
                axes_dim_rope=(4, 6, 6),
                axes_lens=(300, 16, 16),
                cap_feat_dim=_tiny.WIDTH,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
            vae=_tiny.deep_pixels(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=Gemma2Model(text).eval(),
            tokenizer=tokenizer,
        )
        return cls(pipeline, max_length=24)


def _whole(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Where tensors have shapes alone ("meta"), every token counts as text: the network asks for their number."""
    hidden, mask = inputs
    return hidden, torch.ones(mask.shape, dtype=torch.long, device="cpu") if mask.is_meta else mask
