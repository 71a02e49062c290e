"""HiDream-I1, Full, Dev and Fast: two CLIPs, T5 and every layer of Llama 3, experts for tokens; flow matching."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Self

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
)
from diffusers.pipelines.hidream_image.pipeline_hidream_image import calculate_shift
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, LlamaConfig, LlamaForCausalLM

from ddspo import randomness
from ddspo.backbones import _tiny
from ddspo.backbones._experts import route
from ddspo.backbones._folder import parts_of
from ddspo.backbones._model import Found
from ddspo.backbones._readers import Reader
from ddspo.backbones._schedule import noise_path, stepping
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition
from ddspo.errors import InputError
from ddspo.maths.paths import NoisePath

CLIP_READS = 218
"""Tokens that the pipeline gives a CLIP at most."""
FAST_SHIFT = 3.0
"""Of Fast's scheduler, of 16 steps; Dev's is 6, of 28. Their networks have the same configuration."""


class HiDream(Backbone):
    """`HiDreamImagePipeline` folders and hub ids (HiDream-I1 Full, Dev and Fast, and their fine-tunes).

    The network predicts x_0 - noise; `predict` negates that, so that the prediction is noise - x_0 as in any other
    flow. The pipeline draws 1024 x 1024 pixels, whatever it is asked for, and so another size is refused.

    Dev and Fast are distilled to few steps without guidance, each with fresh noise, which the pipeline leaves to
    chance and which here the seeds decide. They are aligned against themselves as they are, nothing is distilled
    anew: few updates, and a look at their pictures.
    """

    pipeline_class = HiDreamImagePipeline
    denoiser_name = "transformer"
    lora_targets = tuple(f"attn1.to_{part}{stream}" for stream in ("", "_t") for part in ("q", "k", "v", "out"))
    guidance = 5.0
    steps = 50
    long_text = 128

    def __init__(self, pipeline: Any, **options: Any) -> None:
        super().__init__(pipeline, **options)
        route(self.denoiser)
        side = pipeline.default_sample_size * self.scale
        if self.resolution not in (None, side):
            raise InputError(f"model.resolution {self.resolution}: the pipeline always draws {side}: leave it out")

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """T5's hidden states, [B, tokens, width], Llama's of all layers, [B, layers, tokens, width], pooled CLIPs'."""
        t5, _, llama, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, do_classifier_free_guidance=False, max_sequence_length=self.max_length
        )
        return {
            "encoder_hidden_states_t5": t5,
            "encoder_hidden_states_llama3": llama.transpose(0, 1).contiguous(),
            "pooled_embeds": pooled,
        }

    def forward(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Layers before texts, the clock from 0 to 1000, and negated."""
        layers = condition["encoder_hidden_states_llama3"].transpose(0, 1)
        said = {**condition, "encoder_hidden_states_llama3": layers}
        with _sized(denoiser) if x_t.is_meta else nullcontext():
            return -denoiser(x_t, timesteps=t, **said, return_dict=False)[0]

    @property
    def distilled(self) -> bool:
        """Whether it draws in few steps and is not guided, as its scheduler says."""
        return isinstance(self.pipeline.scheduler, FlowMatchLCMScheduler)

    @property
    def usual(self) -> tuple[int, float]:
        """Dev 28 and Fast 16 steps, no guidance."""
        if not self.distilled:
            return super().usual
        return (16 if self.pipeline.scheduler.config.shift == FAST_SHIFT else 28), 1.0

    @classmethod
    def guides(cls, found: Found) -> bool:
        """Dev and Fast have no guidance."""
        return parts_of(found.model_index)["scheduler"][1] != FlowMatchLCMScheduler.__name__

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float) -> Tensor:
        """As elsewhere; a distilled model has no guidance."""
        if guidance != 1 and self.distilled:
            raise InputError(f"guidance {guidance:g}: HiDream-I1 Dev and Fast have none: give 1")
        return super().generate(prompts, seeds, steps, guidance)

    def drawn(self, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> Tensor:
        """As elsewhere, with noise of the seeds at every step where the scheduler draws any."""
        generators = [torch.Generator().manual_seed(randomness.stable_seed(seed, "sampler")) for seed in seeds]
        scheduler = self.pipeline.scheduler
        step = partial(scheduler.step, generator=generators)
        with stepping(scheduler, step) if self.distilled else nullcontext():
            return super().drawn(prompts, seeds, **options)

    def readers(self) -> list[Reader]:
        """All four read as many tokens as T5 and Llama, as far as they go."""
        length = int(self.max_length or 0)
        return [replace(each, limit=min(length, _reads(each.tokenizer))) for each in super().readers()]

    @property
    def path(self) -> NoisePath:
        """A dynamic shift is that of as many patches as the network takes at most."""
        return noise_path(self.pipeline.scheduler, self.tokens, calculate_shift(self.denoiser.max_seq))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one latent."""
        return self.config.in_channels, *self._sides(self.pipeline.default_sample_size)

    @classmethod
    def tiny(cls, scheduler: Any = None) -> Self:
        """128 x 128 latents in patches of 16 x 16, one-letter tokens, 16 of them, 0.3 M parameters."""
        torch.manual_seed(0)
        tokenizer = _tiny.qwen_tokenizer()
        one = {
            "block_out_channels": (8,),
            "down_block_types": ("DownEncoderBlock2D",),
            "mid_block_add_attention": False,
        }
        pipeline = HiDreamImagePipeline(
            transformer=HiDreamImageTransformer2DModel(
                patch_size=16,
                in_channels=4,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=1,
                caption_channels=[2 * _tiny.WIDTH, _tiny.WIDTH],
                text_emb_dim=2 * _tiny.WIDTH,
                axes_dims_rope=(4, 6, 6),
                max_resolution=(128, 128),
                llama_layers=[0, 1],
            ).eval(),
            scheduler=scheduler or FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_tiny.autoencoder(
                **one, up_block_types=("UpDecoderBlock2D",), scaling_factor=0.3611, shift_factor=0.1159
            ),
            text_encoder=CLIPTextModelWithProjection(_tiny.clip_config()),
            tokenizer=_tiny.clip_tokenizer(),
            text_encoder_2=CLIPTextModelWithProjection(_tiny.clip_config()),
            tokenizer_2=_tiny.clip_tokenizer(),
            text_encoder_3=_tiny.t5_encoder(2 * _tiny.WIDTH),
            tokenizer_3=_tiny.t5_tokenizer(),
            text_encoder_4=LlamaForCausalLM(_tiny.language_config(LlamaConfig, tokenizer)).eval(),
            tokenizer_4=tokenizer,
        )
        return cls(pipeline, max_length=_tiny.READS)


def _reads(tokenizer: Any) -> int:
    return CLIP_READS if isinstance(tokenizer, CLIPTokenizer) else int(tokenizer.model_max_length)


@contextmanager
def _sized(network: Any) -> Iterator[None]:
    """Inside, the network has numbers for the sides of images, of which it would ask tensors without values."""
    plain, side = network.patchify, network.config.patch_size

    def patchify(x: Tensor) -> tuple[Any, ...]:
        hidden, masks, _, places = plain(x)
        return hidden, masks, [(x.shape[2] // side, x.shape[3] // side)] * len(x), places

    network.patchify = patchify
    try:
        yield
    finally:
        del network.patchify
