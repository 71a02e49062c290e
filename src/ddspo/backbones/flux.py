"""FLUX.1, dev and schnell: packed latents, T5 and pooled CLIP text, and in dev a guidance input; flow matching."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from ddspo.backbones import _tiny
from ddspo.backbones._guidance import guidance_input
from ddspo.backbones._model import Found
from ddspo.backbones._packed import Packed
from ddspo.conditions import Condition
from ddspo.errors import InputError


class Flux(Packed):
    """`FluxPipeline` folders and hub ids (FLUX.1-dev, FLUX.1-schnell and their fine-tunes).

    In dev, which is distilled from guided samples, training reads the guidance input at `distilled_guidance`, 3.5 if
    not told otherwise. schnell has no such input, and no guidance at all.
    """

    pipeline_class = FluxPipeline
    guidance = 3.5
    steps = 28

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """T5's hidden states, [B, tokens, width], CLIP's pooled text, [B, width], and in dev the guidance, [B]."""
        hidden, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), None, device=self.device, max_sequence_length=self.max_length
        )
        return {"encoder_hidden_states": hidden, "pooled_projections": pooled} | guidance_input(self, len(prompts))

    def forward(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The clock runs from 0 to 1."""
        places = self.places(x_t, condition["encoder_hidden_states"])
        packed = denoiser(self.pack(x_t), timestep=t / 1000, **places, **condition, return_dict=False)[0]
        return self.unpacked(packed, *x_t.shape[2:])

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float) -> Tensor:
        """As elsewhere; `guidance` is dev's input, no second prediction is made."""
        if guidance != 1 and not self.config.guidance_embeds:
            raise InputError(f"guidance {guidance:g}: FLUX.1-schnell has none: give 1")
        return super().generate(prompts, seeds, steps, guidance)

    @classmethod
    def guides(cls, found: Found) -> bool:
        """Dev has an input for it, schnell has none."""
        return bool(found.config("transformer/config.json").get("guidance_embeds"))

    @property
    def usual(self) -> tuple[int, float]:
        """Schnell is distilled: 4 steps, no guidance."""
        return super().usual if self.config.guidance_embeds else (4, 1.0)

    def evaluations(self, steps: int, guidance: float) -> int:
        """One a step, whatever the guidance."""
        return super().evaluations(steps, 1.0)

    @classmethod
    def tiny(cls, **changes: Any) -> Self:
        """8 x 8 latents, one-letter tokens, 24 of them in T5, 0.1 M parameters."""
        torch.manual_seed(0)
        pipeline = FluxPipeline(
            transformer=FluxTransformer2DModel(
                **{
                    "in_channels": 16,
                    "num_layers": 1,
                    "num_single_layers": 1,
                    "attention_head_dim": 16,
                    "num_attention_heads": 2,
                    "joint_attention_dim": 2 * _tiny.WIDTH,
                    "pooled_projection_dim": _tiny.WIDTH,
                    "axes_dims_rope": (4, 6, 6),
                    "guidance_embeds": True,
                }
                | changes
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=_tiny.autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=CLIPTextModel(_tiny.clip_config()),
            tokenizer=_tiny.clip_tokenizer(),
            text_encoder_2=_tiny.t5_encoder(2 * _tiny.WIDTH),
            tokenizer_2=_tiny.t5_tokenizer(),
        )
        return cls(pipeline, resolution=16, max_length=24)
