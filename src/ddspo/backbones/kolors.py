"""Kolors: SDXL's U-Net behind ChatGLM3, which reads Chinese and English."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from diffusers import EulerDiscreteScheduler, KolorsPipeline

from ddspo.backbones import _tiny, _tiny_glm
from ddspo.backbones._sized import Sized
from ddspo.conditions import Condition
from ddspo.errors import InputError

READS = 256
"""Tokens that the pipeline's call always reads, whatever it is told."""


class Kolors(Sized):
    """`KolorsPipeline` folders and hub ids (Kolors and its fine-tunes)."""

    pipeline_class = KolorsPipeline
    steps = 50
    long_text = READS

    def __init__(self, pipeline: Any, **options: Any) -> None:
        super().__init__(pipeline, **options)
        if self.max_length != READS:
            length = f"model.max_length {self.max_length}"
            raise InputError(f"{length}: a KolorsPipeline always reads {READS}: leave it out")

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """ChatGLM's last hidden states but one, of padding too, its last one of the last token, and sizes.

        Not by the pipeline, which looks into the mask for whether it has to make another one, and keeps what would
        help to find next words.
        """
        glm = self.pipeline.text_encoder
        read = self.pipeline.tokenizer(
            list(prompts), padding="max_length", max_length=READS, truncation=True, return_tensors="pt"
        ).to(self.device)
        found = glm(
            input_ids=read["input_ids"],
            position_ids=read["position_ids"],
            full_attention_mask=glm.get_masks(read["input_ids"], None, padding_mask=read["attention_mask"]),
            use_cache=False,
            output_hidden_states=True,
            return_dict=True,
        ).hidden_states
        return self.told(found[-2].transpose(0, 1).contiguous(), found[-1][-1])

    @classmethod
    def tiny(cls) -> Self:
        """8 x 8 latents, one-letter tokens, 0.2 M parameters."""
        torch.manual_seed(0)
        pipeline = KolorsPipeline(
            vae=_tiny.autoencoder(scaling_factor=0.13025),
            text_encoder=_tiny_glm.encoder(READS),
            tokenizer=_tiny_glm.tokenizer(),
            unet=_tiny.unet(
                encoder_hid_dim=_tiny.WIDTH,
                encoder_hid_dim_type="text_proj",
                cross_attention_dim=2 * _tiny.WIDTH,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + _tiny.WIDTH,
                transformer_layers_per_block=(2, 1),
                use_linear_projection=True,
            ),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.014,
                beta_schedule="scaled_linear",
                num_train_timesteps=1100,
                steps_offset=1,
                timestep_spacing="leading",
            ),
        )
        return cls(pipeline)
