"""Chroma: FLUX.1 schnell pruned and trained on, T5 text with a mask, guided by a second prediction; flow matching."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from ddspo.backbones import _tiny
from ddspo.backbones._packed import Packed
from ddspo.conditions import Condition


class Chroma(Packed):
    """`ChromaPipeline` folders and hub ids (Chroma1-HD, Chroma1-Base and their fine-tunes).

    The mask keeps the text and one token of padding after it. diffusers gives it to attention as numbers, 1 and 0,
    which are added to the logits: padding is read, e times less than the rest. It is so in training as in sampling.
    """

    pipeline_class = ChromaPipeline
    guidance = 5.0
    steps = 35

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """T5's hidden states, [B, tokens, width], and which of them are text, or the token after it, [B, tokens]."""
        hidden, _, mask, *_ = self.pipeline.encode_prompt(
            list(prompts),
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_length,
        )
        return {"encoder_hidden_states": hidden, "attention_mask": mask}

    def forward(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The clock runs from 0 to 1, and the mask goes on over the image."""
        text, packed = condition["encoder_hidden_states"], self.pack(x_t)
        mask = self.pipeline._prepare_attention_mask(
            len(packed), packed.shape[1], packed.dtype, condition["attention_mask"]
        )
        said = {"encoder_hidden_states": text, "attention_mask": mask} | self.places(x_t, text)
        found = denoiser(packed, timestep=t / 1000, **said, return_dict=False)[0]
        return self.unpacked(found, *x_t.shape[2:])

    @classmethod
    def tiny(cls, **changes: Any) -> Self:
        """8 x 8 latents, one-letter tokens, 24 of them, 0.1 M parameters."""
        torch.manual_seed(0)
        pipeline = ChromaPipeline(
            transformer=ChromaTransformer2DModel(
                **{
                    "in_channels": 16,
                    "num_layers": 1,
                    "num_single_layers": 2,
                    "attention_head_dim": 16,
                    "num_attention_heads": 2,
                    "joint_attention_dim": 2 * _tiny.WIDTH,
                    "axes_dims_rope": (4, 6, 6),
                    "approximator_num_channels": 16,
                    "approximator_hidden_dim": 32,
                    "approximator_layers": 2,
                }
                | changes
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_tiny.autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=_tiny.t5_encoder(2 * _tiny.WIDTH),
            tokenizer=_tiny.t5_tokenizer(),
        )
        return cls(pipeline, resolution=16, max_length=24)
