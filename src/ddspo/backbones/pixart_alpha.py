"""PixArt-alpha: as PixArt-Sigma, and at 1024 pixels told the image's size and shape."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from diffusers import PixArtAlphaPipeline
from torch import Tensor

from ddspo.backbones._pixart import AnyPixArt
from ddspo.backbones._schedule import stepping
from ddspo.conditions import Condition

TOLD = 128
"""`sample_size` of the transformers that are told, by which the pipeline knows them."""


class PixArtAlpha(AnyPixArt):
    """`PixArtAlphaPipeline` folders and hub ids (PixArt-XL-2 of 256, 512 and 1024 pixels and their fine-tunes)."""

    pipeline_class = PixArtAlphaPipeline
    long_text = 120

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """As of any PixArt; at 1024 pixels also height and width, [B, 2], and height / width, [B, 1]."""
        read = dict(super().encode(prompts))
        if self.config.sample_size == TOLD:
            height, width = self.call["height"], self.call["width"]
            like: dict[str, Any] = {"dtype": read["encoder_hidden_states"].dtype, "device": self.device}
            read["resolution"] = torch.tensor([[height, width]], **like).repeat(len(prompts), 1)
            read["aspect_ratio"] = torch.tensor([[height / width]], **like).repeat(len(prompts), 1)
        return read

    def drawn(self, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> Tensor:
        """As elsewhere, in a single step too.

        The pipeline then takes the second of what its scheduler gives, which is the image that few say beside the
        first; of the others the first is the same one.
        """
        scheduler = self.pipeline.scheduler
        step = scheduler.step
        with stepping(scheduler, lambda *given, **named: (2 * step(*given, **named))[:2]):
            return super().drawn(prompts, seeds, **options)

    @classmethod
    def tiny(cls) -> Self:
        """8 x 8 latents of a model of 128 x 128, one-letter tokens, 24 of them, 0.1 M parameters.

        A block is 24 wide: height, width and their ratio have a third each.
        """
        pipeline = cls.tiny_pipeline(sample_size=TOLD, attention_head_dim=12, cross_attention_dim=24)
        return cls(pipeline, resolution=16, max_length=24)
