"""CogView4: GLM-4 with padding that is text, an even clock beside noise that is moved with the image's size; flow."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from diffusers import CogView4Pipeline, CogView4Transformer2DModel, FlowMatchEulerDiscreteScheduler
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_cogview4 import CogView4AttnProcessor
from diffusers.pipelines.cogview4.pipeline_cogview4 import calculate_shift
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import GlmConfig, GlmModel

from ddspo.backbones import _tiny
from ddspo.backbones._schedule import noise_path
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition
from ddspo.errors import InputError
from ddspo.maths.paths import RectifiedFlow

AT_ONCE = 16
"""GLM is given a multiple of so many tokens: it reads what is put before a shorter text as part of it."""
MASK = "text_mask"
"""Where a batch of texts ends, as the attention here is told."""


class CogView4(Backbone):
    """`CogView4Pipeline` folders and hub ids (CogView4-6B and its fine-tunes).

    The network's clock is t = 1000 u, and the noise is that of u moved by the shift, sigma(u); in other flows the
    clock is 1000 sigma. Given several prompts at once, the pipeline fills all of them up to the longest, and what it
    fills them with is read as text; here each is read as the pipeline reads it alone.
    """

    pipeline_class = CogView4Pipeline
    denoiser_name = "transformer"
    guidance = 5.0
    steps = 50
    long_text = 1024

    def __init__(self, pipeline: Any, **options: Any) -> None:
        super().__init__(pipeline, **options)
        for block in self.denoiser.get_submodule("transformer_blocks").children():
            block.get_submodule("attn1").processor = Attention()

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """GLM's last hidden states but one, [B, tokens, width], which of them are there, [B, tokens], and sizes.

        Not by the pipeline, which fills all of them up to the longest, and compares its tokens. Sizes are those of its
        own call, [B, 2] each: the image is whole and as large as the resolution.
        """
        texts = self._tokens(prompts)
        lengths = [len(tokens) for tokens in texts]
        places = -(-int(self.max_length or 0) // AT_ONCE) * AT_ONCE
        glm = self.pipeline.text_encoder
        like = {"dtype": glm.dtype, "device": self.device}
        hidden = torch.zeros(len(texts), places, self.config.text_embed_dim, **like)
        for length in sorted(set(lengths)):
            rows = [row for row, each in enumerate(lengths) if each == length]
            read = torch.tensor([texts[row] for row in rows], device=self.device)
            hidden[rows, :length] = glm(read, use_cache=False, output_hidden_states=True).hidden_states[-2]
        mask = torch.arange(places) < torch.tensor(lengths)[:, None]
        size = torch.tensor([[self.call["height"], self.call["width"]]], **like).repeat(len(texts), 1)
        sizes = {"original_size": size, "target_size": size, "crop_coords": torch.zeros_like(size)}
        return {"encoder_hidden_states": hidden, MASK: mask.to(self.device)} | sizes

    def forward(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Texts as long as the longest of them, and a mask if others are shorter; the clock runs from 0 to 1000.

        Where tensors have shapes alone ("meta"), all places count as text.
        """
        told: dict[str, Any] = dict(condition)
        hidden, mask = told.pop("encoder_hidden_states"), told.pop(MASK)
        if not mask.is_meta:
            lengths = mask.sum(1).tolist()
            hidden, mask = hidden[:, : max(lengths)], mask[:, : max(lengths)]
            told |= {"attention_kwargs": {MASK: mask}} if min(lengths) < max(lengths) else {}
        return denoiser(x_t, hidden, t, **told, return_dict=False)[0]

    def drawn(self, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> Tensor:
        """As elsewhere; texts of several lengths are given to the pipeline as they are read alone."""
        lengths = [len(tokens) for tokens in self._tokens(prompts)]
        if min(lengths) < max(lengths):
            read = self.encode(prompts)
            hidden, mask = (read[name][:, : max(lengths)] for name in ("encoder_hidden_states", MASK))
            options |= {"prompt": None, "prompt_embeds": hidden, "attention_kwargs": {MASK: mask}}
        return super().drawn(prompts, seeds, **options)

    @property
    def path(self) -> RectifiedFlow:
        """A flow whose clock is even; the pipeline has a rule of its own for the shift."""
        scheduler = self.pipeline.scheduler
        rule = {"base_image_seq_len": 256, "base_shift": 0.25, "max_shift": 0.75}
        mu = calculate_shift(self.tokens, *(scheduler.config.get(name, value) for name, value in rule.items()))
        found = noise_path(scheduler, self.tokens, mu)
        if not isinstance(found, RectifiedFlow):
            raise InputError(f"{type(scheduler).__name__}: a CogView4Pipeline samples flows alone: give another model")
        return replace(found, even=True)

    @property
    def _multiple(self) -> int:
        return max(16, super()._multiple)  # the pipeline's own rule

    def _tokens(self, prompts: Sequence[str]) -> list[list[int]]:
        """What GLM reads of each prompt alone, what is put before it included."""
        tokenizer = self.pipeline.tokenizer
        read = tokenizer(list(prompts), max_length=self.max_length, truncation=True).input_ids
        return [[tokenizer.pad_token_id] * (-len(tokens) % AT_ONCE) + tokens for tokens in read]

    @classmethod
    def tiny(cls) -> Self:
        """8 x 8 latents, one token a byte, 48 of them, 0.1 M parameters."""
        torch.manual_seed(0)
        tokenizer = _tiny.glm4_tokenizer()
        end = tokenizer.pad_token_id
        text = _tiny.language_config(GlmConfig, tokenizer, pad_token_id=end, eos_token_id=end, bos_token_id=end)
        pipeline = CogView4Pipeline(
            transformer=CogView4Transformer2DModel(
                in_channels=4,
                out_channels=4,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                text_embed_dim=_tiny.WIDTH,
                time_embed_dim=32,
                condition_dim=8,
                pos_embed_max_size=8,
                sample_size=8,
                rope_axes_dim=(16, 16),
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(
                base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"
            ),
            vae=_tiny.autoencoder(scaling_factor=1.0, shift_factor=0.0),
            text_encoder=GlmModel(text).eval(),
            tokenizer=tokenizer,
        )
        return cls(pipeline, max_length=48)


class Attention(CogView4AttnProcessor):  # type: ignore[misc]
    """diffusers' own; where texts of several lengths are read together, without what lies behind the shorter ones.

    diffusers' own also takes a mask, and adds its 1 and 0 to the logits, so that padding is read, e times less.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        text_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Image and text, [B, tokens, width] each, after each has read both.

        The mask, [B, tokens], is of texts of its own width alone: under guidance the prompt "" has none.
        """
        words, dtype = encoder_hidden_states.shape[1], encoder_hidden_states.dtype
        if text_mask is None or text_mask.shape[1] != words:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        both = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        query, key, value = (
            project(both).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = (
            torch.cat([each[:, :, :words], apply_rotary_emb(each[:, :, words:], image_rotary_emb, True, -2)], dim=2)
            for each in (attn.norm_q(query).to(dtype), attn.norm_k(key).to(dtype))
        )
        there = pad(text_mask, (0, hidden_states.shape[1]), value=True)[:, None, None]
        found = scaled_dot_product_attention(query, key, value, attn_mask=there).transpose(1, 2).flatten(2)
        text, image = attn.to_out[0](found.to(query.dtype)).tensor_split([words], dim=1)
        return image, text
