"""FLUX.2 and its kin: normalised 2 x 2 patches in a row, four coordinates, hidden states of three layers; flow."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from torch import Tensor, nn

from ddspo.backbones import _tiny
from ddspo.backbones._autoencoder import Autoencoder
from ddspo.backbones._denoiser import JOINT_ATTENTION
from ddspo.backbones._readers import few
from ddspo.backbones._schedule import noise_path
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition
from ddspo.maths.paths import NoisePath


class Flux2Patches(Backbone, ABC):
    """A latent is what the transformer sees: 2 x 2 numbers of each of the autoencoder's channels as one of 128.

    They are normalised by the autoencoder's own running statistics.
    """

    denoiser_name = "transformer"
    patch = 4
    lora_targets = (*JOINT_ATTENTION, "attn.to_qkv_mlp_proj")
    guidance = 4.0
    steps = 50
    draws_smaller = True
    long_text = 512

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """What `read` gives, [B, tokens, 3 width]."""
        return {"encoder_hidden_states": torch.cat([self.read(part) for part in few(prompts)])}

    @abstractmethod
    def read(self, prompts: list[str]) -> Tensor:
        """Hidden states of few texts after three layers side by side, of padding too, [B, tokens, 3 width]."""

    def forward(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Text and image have four coordinates each, and the clock runs from 0 to 1."""
        kind: Any = self.pipeline_class
        found = denoiser(
            kind._pack_latents(x_t),
            timestep=t / 1000,
            img_ids=kind._prepare_latent_ids(x_t).to(x_t.device),
            txt_ids=kind._prepare_text_ids(condition["encoder_hidden_states"]).to(x_t.device),
            **condition,
            return_dict=False,
        )[0]
        return found.transpose(1, 2).reshape(x_t.shape)

    def unpack(self, latents: Tensor) -> Tensor:
        """[B, H W, C], as the pipeline's loop has them, to [B, C, H, W] of `latent_shape`."""
        return latents.transpose(1, 2).reshape(len(latents), *self.latent_shape)

    @property
    def path(self) -> NoisePath:
        """The shift is that of the pipeline for an image of this size in the usual number of steps."""
        return noise_path(self.pipeline.scheduler, self.tokens, compute_empirical_mu(self.tokens, self.usual[0]))

    @property
    def scale(self) -> int:
        """Pixels to a side of a patch of 2 x 2."""
        return 2 * int(self.pipeline.vae_scale_factor)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one latent, in patches."""
        return self.config.in_channels, *self._sides(self.pipeline.default_sample_size // 2)

    @property
    def autoencoder(self) -> Autoencoder:
        """Between images and patches."""
        return Autoencoder(self.pipeline.vae, self.pipeline.image_processor, self.scale, patch=2)


def tiny_parts(**changes: Any) -> dict[str, Any]:
    """What a tiny pipeline has beside its text: 4 x 4 patches of 8 x 8 latents; `changes` of the transformer."""
    return {
        "transformer": Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * _tiny.WIDTH,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            **changes,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        "vae": _normalising(),
    }


def _normalising() -> AutoencoderKLFlux2:
    """Two pixels a side for each latent of 4 channels, and statistics that are not those of no normalisation."""
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    ).eval()
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    return vae
