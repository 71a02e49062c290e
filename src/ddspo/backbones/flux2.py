"""FLUX.2 klein, base and distilled: three layers of Qwen3, patches normalised place by place; flow matching."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from ddspo.backbones import _tiny
from ddspo.backbones._autoencoder import Autoencoder
from ddspo.backbones._denoiser import JOINT_ATTENTION
from ddspo.backbones._model import Found
from ddspo.backbones._readers import Reader, before_prompt
from ddspo.backbones._schedule import noise_path
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition
from ddspo.errors import InputError
from ddspo.maths.paths import NoisePath

QUIET = {"enable_thinking": False}
"""What the pipeline tells the chat template."""
AT_ONCE = 8
"""Texts that Qwen reads together: with each come its guesses at every next token, 150 MB that nobody asked for."""


class Flux2(Backbone):
    """`Flux2KleinPipeline` folders and hub ids (FLUX.2 klein 4B and 9B, base and distilled, and their fine-tunes).

    A latent is what the transformer sees: 2 x 2 numbers of each of the autoencoder's channels as one of 128 channels,
    normalised by the autoencoder's own running statistics. Base is guided by a second prediction. Distilled draws in
    4 steps without one: it is aligned against itself as it is, nothing is distilled anew, and `draw.states: visited`
    keeps to the few states and times that it knows.
    """

    pipeline_class = Flux2KleinPipeline
    denoiser_name = "transformer"
    patch = 4
    lora_targets = (*JOINT_ATTENTION, "attn.to_qkv_mlp_proj")
    guidance = 4.0
    steps = 50
    draws_smaller = True
    long_text = 512

    @property
    def distilled(self) -> bool:
        """Whether it draws in few steps and cannot be guided, as its folder says."""
        return bool(self.pipeline.config.is_distilled)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Qwen's hidden states after 9, 18 and 27 layers side by side, of padding too, [B, tokens, 3 width]."""
        parts = [list(prompts[first : first + AT_ONCE]) for first in range(0, len(prompts), AT_ONCE)]
        told = {"device": self.device, "max_sequence_length": self.max_length}
        return {"encoder_hidden_states": torch.cat([self.pipeline.encode_prompt(part, **told)[0] for part in parts])}

    def forward(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Text and image have four coordinates each, and the clock runs from 0 to 1."""
        kind, text = self.pipeline_class, condition["encoder_hidden_states"]
        found = denoiser(
            kind._pack_latents(x_t),
            timestep=t / 1000,
            img_ids=kind._prepare_latent_ids(x_t).to(x_t.device),
            txt_ids=kind._prepare_text_ids(text).to(x_t.device),
            **condition,
            return_dict=False,
        )[0]
        return found.transpose(1, 2).reshape(x_t.shape)

    def unpack(self, latents: Tensor) -> Tensor:
        """[B, H W, C], as the pipeline's loop has them, to [B, C, H, W] of `latent_shape`."""
        return latents.transpose(1, 2).reshape(len(latents), *self.latent_shape)

    def drawn(self, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> Tensor:
        """What the scheduler left: the pipeline undoes its normalisation, and the latents' patches, at its end."""
        left: list[Tensor] = []

        def keep(_: Any, step: int, t: Tensor, named: dict[str, Tensor]) -> dict[str, Tensor]:
            left[:] = [named["latents"]]
            return {}

        super().drawn(prompts, seeds, callback_on_step_end=keep, **options)
        return left[0]

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float) -> Tensor:
        """As elsewhere; a distilled model has no guidance."""
        if guidance != 1 and self.distilled:
            raise InputError(f"guidance {guidance:g}: a distilled FLUX.2 klein has none: give 1")
        return super().generate(prompts, seeds, steps, guidance)

    @property
    def usual(self) -> tuple[int, float]:
        """Distilled: 4 steps, no guidance."""
        return (4, 1.0) if self.distilled else super().usual

    @classmethod
    def guides(cls, found: Found) -> bool:
        """A distilled model has no guidance."""
        return not found.model_index.get("is_distilled")

    def evaluations(self, steps: int, guidance: float) -> int:
        """Of a distilled model one a step."""
        return super().evaluations(steps, 1.0 if self.distilled else guidance)

    def readers(self) -> list[Reader]:
        """Qwen reads the prompt as a question in a conversation."""
        return [replace(reader, prefix=before_prompt(reader.tokenizer, **QUIET)) for reader in super().readers()]

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

    @classmethod
    def tiny(cls, **changes: Any) -> Self:
        """4 x 4 patches of 8 x 8 latents, a token a byte, 48 of them, 0.2 M parameters; `changes` of the pipeline."""
        torch.manual_seed(0)
        tokenizer = _tiny.qwen_tokenizer()
        text = _tiny.language_config(Qwen3Config, tokenizer, num_hidden_layers=28, tie_word_embeddings=True)
        transformer = Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * _tiny.WIDTH,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
        pipeline = Flux2KleinPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=_normalising(),
            text_encoder=Qwen3ForCausalLM(text).eval(),
            tokenizer=tokenizer,
            **changes,
        )
        return cls(pipeline, resolution=16, max_length=48)


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
