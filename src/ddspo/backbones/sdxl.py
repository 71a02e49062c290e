"""Stable Diffusion XL: two CLIPs, their pooled text, and the size and crop of the image."""

from collections.abc import Sequence
from typing import Self

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ddspo.backbones import _tiny
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition


class SDXL(Backbone):
    """`StableDiffusionXLPipeline` folders and hub ids (the base model and its fine-tunes, not the refiner)."""

    pipeline_class = StableDiffusionXLPipeline
    denoiser_name = "unet"
    guidance = 5.0
    steps = 25

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Hidden states of both encoders, [B, tokens, width], the second's pooled text, [B, width], and sizes, [B, 6].

        The six numbers are those of the pipeline's own call: original size, top left corner of the crop and target
        size, which say that the image is whole and as large as the model's resolution.
        """
        pipeline = self.pipeline
        hidden, _, pooled, _ = pipeline.encode_prompt(
            list(prompts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        size = (self.call["height"], self.call["width"])
        sizes = pipeline._get_add_time_ids(
            size, (0, 0), size, dtype=hidden.dtype, text_encoder_projection_dim=pooled.shape[-1]
        )
        time_ids = sizes.to(self.device).repeat(len(prompts), 1)
        return {"encoder_hidden_states": hidden, "text_embeds": pooled, "time_ids": time_ids}

    def forward(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The UNet takes pooled text and sizes in a mapping of their own."""
        hidden, added = (
            condition["encoder_hidden_states"],
            {name: condition[name] for name in ("text_embeds", "time_ids")},
        )
        return denoiser(x_t, t, encoder_hidden_states=hidden, added_cond_kwargs=added, return_dict=False)[0]

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
