"""Stable Diffusion XL: two CLIPs, their pooled text, and the size and crop of the image."""

from collections.abc import Sequence
from typing import Self

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ddspo.backbones import _tiny
from ddspo.backbones._sized import Sized
from ddspo.conditions import Condition


class SDXL(Sized):
    """`StableDiffusionXLPipeline` folders and hub ids (the base model and its fine-tunes, not the refiner)."""

    pipeline_class = StableDiffusionXLPipeline
    steps = 25

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Hidden states of both encoders, [B, tokens, width], pooled text of the second, [B, width], and sizes."""
        hidden, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return self.told(hidden, pooled)

    @classmethod
    def tiny(cls) -> Self:
        """8 x 8 latents, one-letter tokens, 0.2 M parameters."""
        torch.manual_seed(0)
        pipeline = StableDiffusionXLPipeline(
            vae=_tiny.autoencoder(scaling_factor=0.13025),
            text_encoder=CLIPTextModel(_tiny.clip_config()),
            text_encoder_2=CLIPTextModelWithProjection(_tiny.clip_config(projection_dim=24)),
            tokenizer=_tiny.clip_tokenizer(),
            tokenizer_2=_tiny.clip_tokenizer(),
            unet=_tiny.unet(
                cross_attention_dim=2 * _tiny.WIDTH,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 24,
                transformer_layers_per_block=(2, 1),
                use_linear_projection=True,
            ),
            scheduler=EulerDiscreteScheduler(
                beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
            ),
            add_watermarker=False,
        )
        return cls(pipeline)
