"""PixArt-Sigma: T5 text with its mask, epsilon beside a learned variance."""

from typing import Self

from diffusers import PixArtSigmaPipeline

from ddspo.backbones._pixart import AnyPixArt


class PixArt(AnyPixArt):
    """`PixArtSigmaPipeline` folders and hub ids."""

    pipeline_class = PixArtSigmaPipeline
    long_text = 300

    @classmethod
    def tiny(cls) -> Self:
        """8 x 8 latents, one-letter tokens, 24 of them, 0.1 M parameters."""
        pipeline = cls.tiny_pipeline(
            sample_size=8, attention_head_dim=8, cross_attention_dim=16, use_additional_conditions=False
        )
        return cls(pipeline, max_length=24)
