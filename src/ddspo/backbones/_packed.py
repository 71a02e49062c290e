"""FLUX.1 and its kin: 2 x 2 patches of latents in a row, each with its place, and a clock from 0 to 1."""

from abc import ABC

import torch
from diffusers import FluxPipeline
from torch import Tensor

from ddspo.backbones._denoiser import JOINT_ATTENTION
from ddspo.backbones.base import Backbone


class Packed(Backbone, ABC):
    """Latents are kept as the autoencoder makes them, [16, H, W], and packed only around a call of the transformer."""

    denoiser_name = "transformer"
    patch = 4
    lora_targets = JOINT_ATTENTION
    draws_smaller = True
    long_text = 512

    def places(self, x_t: Tensor, text: Tensor) -> dict[str, Tensor]:
        """The positions of image (row and column of a patch) and text (all 0), as the transformer takes them.

        Args:
            x_t: Latents, [B, C, H, W].
            text: The text's hidden states, [B, tokens, width].
        """
        rows, columns = x_t.shape[2] // 2, x_t.shape[3] // 2
        image = FluxPipeline._prepare_latent_image_ids(None, rows, columns, x_t.device, x_t.dtype)
        return {"img_ids": image, "txt_ids": torch.zeros(text.shape[1], 3, device=x_t.device, dtype=x_t.dtype)}

    def pack(self, latents: Tensor) -> Tensor:
        """[B, C, H, W] to [B, H W / 4, 4 C]."""
        return FluxPipeline._pack_latents(latents, *latents.shape)

    def unpack(self, latents: Tensor) -> Tensor:
        """The inverse, for latents of `latent_shape`."""
        return self.unpacked(latents, *self.latent_shape[1:])

    @staticmethod
    def unpacked(latents: Tensor, height: int, width: int) -> Tensor:
        """The inverse, for latents [B, C, height, width]."""
        return FluxPipeline._unpack_latents(latents, height, width, vae_scale_factor=1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one latent, not packed."""
        return self.config.in_channels // self.patch, *self._sides(self.pipeline.default_sample_size)

    @property
    def tokens(self) -> int:
        """One for each 2 x 2 patch."""
        _, height, width = self.latent_shape
        return height * width // 4
