"""AuraFlow: Pile-T5 text that ends in zeros, a grid of learned places, a clock from 0 to 1; flow matching."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from ddspo.backbones import _tiny
from ddspo.backbones._denoiser import JOINT_ATTENTION
from ddspo.backbones._positions import check_side
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition

SIDE = 1024
"""Pixels that the pipeline draws to a side where nobody says otherwise, whatever the transformer's `sample_size`."""


class AuraFlow(Backbone):
    """`AuraFlowPipeline` folders and hub ids (AuraFlow 0.2 and 0.3, Pony V7 and their fine-tunes).

    The transformer has no mask: what a text lacks to its `max_length` are zeros, which it reads. An image takes the
    middle of its grid of learned places; a side that is longer than the grid is refused, because the network would
    count on at the grid's other end.
    """

    pipeline_class = AuraFlowPipeline
    denoiser_name = "transformer"
    lora_targets = JOINT_ATTENTION
    guidance = 3.5
    steps = 50
    long_text = 256

    def __init__(self, pipeline: Any, **options: Any) -> None:
        super().__init__(pipeline, **options)
        check_side(self, self.latent_shape[1] // self.config.patch_size, int(self.config.pos_embed_max_size**0.5))

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """T5's hidden states, 0 where there is no text, [B, tokens, width]."""
        hidden, *_ = self.pipeline.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, device=self.device, max_sequence_length=self.max_length
        )
        return {"encoder_hidden_states": hidden}

    def forward(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The clock runs from 0 to 1."""
        return denoiser(x_t, timestep=t / 1000, **condition, return_dict=False)[0]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one latent."""
        return self.config.in_channels, *self._sides(SIDE // self.pipeline.vae_scale_factor)

    @classmethod
    def tiny(cls) -> Self:
        """8 x 8 latents, one-letter tokens, 24 of them, 0.3 M parameters."""
        torch.manual_seed(0)
        text = UMT5Config(vocab_size=32, d_model=2 * _tiny.WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        transformer = AuraFlowTransformer2DModel(
            sample_size=8,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=2 * _tiny.WIDTH,
            caption_projection_dim=32,
            pos_embed_max_size=4096,
        )
        transformer.time_step_proj.linear_2.weight.data *= 12  # or else all gates are nearly shut
        pipeline = AuraFlowPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
            vae=_tiny.deep_pixels(scaling_factor=0.13025),
            text_encoder=UMT5EncoderModel(text).eval(),
            tokenizer=_tiny.t5_tokenizer(),
        )
        return cls(pipeline, resolution=64, max_length=24)
