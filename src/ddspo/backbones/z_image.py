"""Z-Image, base and Turbo: Qwen3 behind a chat template, texts of any length, a clock that ends at the image; flow."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3Model

from ddspo.backbones import _tiny
from ddspo.backbones._positions import check_positions
from ddspo.backbones._readers import Reader, before_prompt, few
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition

SIDE = 1024
"""Pixels that the pipeline draws to a side where nobody says otherwise."""
AT_ONCE = 32
"""The transformer fills texts and images up to a multiple of so many tokens, with a learned one."""
CHAT = {"enable_thinking": True}
"""What the pipeline tells the chat template."""
TURBO_SHIFT = 3.0
"""Of Turbo's scheduler; the base's is 6. Their networks have the same configuration."""


class ZImage(Backbone):
    """`ZImagePipeline` folders and hub ids (Z-Image, Z-Image-Turbo and their fine-tunes).

    The network's clock is 0 at noise and 1 at the image, and it predicts x_0 - noise; `predict` negates that, so that
    the prediction is noise - x_0 as in any other flow. The pipeline counts guidance from 0, p + s (p - n); here, as
    for every family, it counts from 1, n + w (p - n): w = s + 1, so that 1 is none and 5 is the pipeline's 4.

    Turbo is distilled to 8 steps without guidance. Aligning it moves its velocities at single times, where nothing
    holds the few steps together but the nearness to the reference: few updates, and a look at its pictures.
    """

    pipeline_class = ZImagePipeline
    denoiser_name = "transformer"
    guidance = 5.0
    steps = 28
    long_text = 512

    def __init__(self, pipeline: Any, **options: Any) -> None:
        super().__init__(pipeline, **options)
        texts = -(-int(self.max_length or 0) // AT_ONCE) * AT_ONCE + 1
        check_positions(self, texts, self.latent_shape[1] // 2, self.config.axes_lens)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Qwen's last hidden states but one, [B, tokens, width], and which of them are text, [B, tokens]."""
        parts = [self._read(part) for part in few(prompts)]
        return {
            "cap_feats": torch.cat([hidden for hidden, _ in parts]),
            "cap_mask": torch.cat([each for _, each in parts]),
        }

    def _read(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Of few prompts."""
        texts = [self._chat(prompt) for prompt in prompts]
        read = self.pipeline.tokenizer(
            texts, padding="max_length", max_length=self.max_length, truncation=True, return_tensors="pt"
        ).to(self.device)
        mask = read.attention_mask.bool()
        found = self.pipeline.text_encoder(input_ids=read.input_ids, attention_mask=mask, output_hidden_states=True)
        return found.hidden_states[-2].masked_fill(~mask[..., None], 0), mask

    def forward(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Lists of latents [C, 1, H, W] and of texts without padding, at the clock 1 - t / 1000, and negated.

        Where tensors have shapes alone ("meta"), every token counts as text.
        """
        hidden, mask = condition["cap_feats"], condition["cap_mask"]
        texts = [rows if rows.is_meta else rows[own] for rows, own in zip(hidden, mask, strict=True)]
        found = denoiser(list(x_t.unsqueeze(2)), (1000 - t) / 1000, texts, return_dict=False)[0]
        return -torch.stack(found).squeeze(2)

    def guided(self, guidance: float, count: int) -> dict[str, Any]:
        """The pipeline's scale is less by 1."""
        return {"guidance_scale": guidance - 1}

    def readers(self) -> list[Reader]:
        """Qwen reads the beginning of a chat and then the prompt."""
        return [replace(reader, prefix=before_prompt(reader.tokenizer, **CHAT)) for reader in super().readers()]

    @property
    def usual(self) -> tuple[int, float]:
        """Turbo, known by its scheduler's shift, is distilled: 8 steps, no guidance."""
        return (8, 1.0) if self.pipeline.scheduler.config.shift == TURBO_SHIFT else super().usual

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one latent."""
        return self.config.in_channels, *self._sides(SIDE // self.pipeline.vae_scale_factor)

    @property
    def tokens(self) -> int:
        """One for each 2 x 2 patch."""
        _, height, width = self.latent_shape
        return height * width // 4

    def _chat(self, prompt: str) -> str:
        """A prompt as the pipeline writes it."""
        said, chat = [{"role": "user", "content": prompt}], self.pipeline.tokenizer.apply_chat_template
        return str(chat(said, tokenize=False, add_generation_prompt=True, **CHAT))

    @classmethod
    def tiny(cls) -> Self:
        """8 x 8 latents, one token a letter and a chat template around them, 64 of them, 0.4 M parameters."""
        torch.manual_seed(0)
        tokenizer = _tiny.qwen_tokenizer()
        text = _tiny.language_config(Qwen3Config, tokenizer)
        pipeline = ZImagePipeline(
            transformer=ZImageTransformer2DModel(
                in_channels=4,
                dim=32,
                n_layers=2,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
                cap_feat_dim=_tiny.WIDTH,
                axes_dims=[4, 6, 6],
                axes_lens=[1024, 256, 256],
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
            vae=_tiny.autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=Qwen3Model(text).eval(),
            tokenizer=tokenizer,
        )
        return cls(pipeline, resolution=16, max_length=64)
