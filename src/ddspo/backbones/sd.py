"""Stable Diffusion 1.x and 2.x: CLIP text in, epsilon or v out."""

from collections.abc import Sequence
from typing import Self

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from transformers import CLIPTextModel

from ddspo.backbones import _tiny
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition


class SD(Backbone):
    """`StableDiffusionPipeline` folders and hub ids (SD 1.4, 1.5, 2.1 and their fine-tunes)."""

    pipeline_class = StableDiffusionPipeline
    denoiser_name = "unet"
    guidance = 7.5
    steps = 25

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """The text encoder's last hidden states, [B, tokens, width]."""
        embeddings, _ = self.pipeline.encode_prompt(list(prompts), self.device, 1, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": embeddings}

    @classmethod
    def tiny(cls) -> Self:
        """8 x 8 latents, one-letter tokens, 0.1 M parameters."""
        torch.manual_seed(0)
        pipeline = StableDiffusionPipeline(
            vae=_tiny.autoencoder(),
            text_encoder=CLIPTextModel(_tiny.clip_config()),
            tokenizer=_tiny.clip_tokenizer(),
            unet=_tiny.unet(),
            scheduler=DDIMScheduler(
                beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        return cls(pipeline)
