"""Stable Diffusion 1.x and 2.x: CLIP text in, epsilon or v out."""

from collections.abc import Sequence
from typing import Self

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ddspo.backbones.base import Backbone
from ddspo.policy_pairs.base import Condition


class SD(Backbone):
    """`StableDiffusionPipeline` folders and hub ids (SD 1.4, 1.5, 2.1 and their fine-tunes)."""

    pipeline_class = StableDiffusionPipeline
    denoiser_name = "unet"

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """The text encoder's last hidden states, [B, tokens, width]."""
        embeddings, _ = self.pipeline.encode_prompt(list(prompts), self.device, 1, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": embeddings}

    @classmethod
    def tiny(cls) -> Self:
        """8 x 8 latents, one-letter tokens, 0.1 M parameters."""
        torch.manual_seed(0)
        letters = [chr(code) for code in range(97, 123)]
        tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
        tokenizer = CLIPTokenizer({token: index for index, token in enumerate(tokens)}, [], model_max_length=16)
        text = CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
        pipeline = StableDiffusionPipeline(
            vae=AutoencoderKL(
                block_out_channels=(8, 8),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                latent_channels=4,
                norm_num_groups=4,
            ),
            text_encoder=CLIPTextModel(text),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(16, 32),
                layers_per_block=1,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=16,
                attention_head_dim=2,
                norm_num_groups=8,
            ),
            scheduler=DDIMScheduler(
                beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        return cls(pipeline)
