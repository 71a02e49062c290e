"""Stable Diffusion 3 and 3.5: two CLIPs and a T5, which may be missing; flow matching."""

from collections.abc import Sequence
from typing import Self

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from ddspo.backbones import _tiny
from ddspo.backbones._denoiser import JOINT_ATTENTION
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition


class SD3(Backbone):
    """`StableDiffusion3Pipeline` folders and hub ids (SD3 Medium, SD3.5 Medium and Large and their fine-tunes)."""

    pipeline_class = StableDiffusion3Pipeline
    denoiser_name = "transformer"
    may_lack = ("text_encoder_3", "tokenizer_3")
    lora_targets = JOINT_ATTENTION
    guidance = 5.0
    steps = 25
    draws_smaller = True
    long_text = 256

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Hidden states of the CLIPs and then of T5, [B, tokens, width], and the pooled text of the CLIPs, [B, width].

        Where the pipeline has no T5, zeros stand for its `max_length` tokens, as in the pipeline itself.
        """
        texts = list(prompts)
        hidden, _, pooled, _ = self.pipeline.encode_prompt(
            texts,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_length,
        )
        return {"encoder_hidden_states": hidden, "pooled_projections": pooled}

    def forward(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The clock runs from 0 to 1000."""
        return denoiser(x_t, timestep=t, **condition, return_dict=False)[0]

    @classmethod
    def tiny(cls) -> Self:
        """8 x 8 latents, one-letter tokens, 24 of them in T5, 0.1 M parameters."""
        torch.manual_seed(0)
        pipeline = StableDiffusion3Pipeline(
            transformer=SD3Transformer2DModel(
                sample_size=8,
                patch_size=2,
                in_channels=4,
                out_channels=4,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=2 * _tiny.WIDTH,
                caption_projection_dim=16,
                pooled_projection_dim=2 * _tiny.WIDTH,
                pos_embed_max_size=8,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_tiny.autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
            text_encoder=CLIPTextModelWithProjection(_tiny.clip_config()),
            tokenizer=_tiny.clip_tokenizer(),
            text_encoder_2=CLIPTextModelWithProjection(_tiny.clip_config()),
            tokenizer_2=_tiny.clip_tokenizer(),
            text_encoder_3=_tiny.t5_encoder(2 * _tiny.WIDTH),
            tokenizer_3=_tiny.t5_tokenizer(),
        )
        return cls(pipeline, max_length=24)
