"""FLUX.2 dev: three layers of Mistral 3 behind a system message, and a guidance input; flow matching."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from diffusers import Flux2Pipeline
from diffusers.pipelines.flux2.pipeline_flux2 import format_input
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from torch import Tensor
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, MistralConfig

from ddspo.backbones import _tiny
from ddspo.backbones._flux2 import Flux2Patches, tiny_parts
from ddspo.backbones._guidance import guidance_input
from ddspo.backbones._readers import PROMPT, Reader, tokenizer_of
from ddspo.conditions import Condition

LAYERS = (10, 20, 30)
"""After so many of Mistral's the pipeline reads its states, where nobody says otherwise."""


class Flux2Dev(Flux2Patches):
    """`Flux2Pipeline` folders and hub ids (FLUX.2-dev and its fine-tunes).

    The model is distilled from guided samples: training reads the guidance input at `distilled_guidance`, 4 if not
    told otherwise, and no second prediction is made. It is aligned against itself at that scale; nothing is distilled
    anew.
    """

    pipeline_class = Flux2Pipeline

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Mistral's hidden states, [B, tokens, 3 width], and the guidance, [B]."""
        return {**super().encode(prompts), **guidance_input(self, len(prompts))}

    def read(self, prompts: list[str]) -> Tensor:
        """Mistral's, after 10, 20 and 30 layers.

        Not by the pipeline, which also computes what word would come next, and whose processor looks for images.
        """
        read = tokenizer_of(self.pipeline.tokenizer)(
            self._chats(prompts),
            padding="max_length",
            max_length=self.max_length,
            truncation=True,
            add_special_tokens=False,
            return_tensors="pt",
        ).to(self.device)
        told = {"input_ids": read.input_ids, "attention_mask": read.attention_mask, "use_cache": False}
        states = self.pipeline.text_encoder.model(**told, output_hidden_states=True).hidden_states
        return torch.cat([states[layer] for layer in LAYERS], dim=-1)

    def evaluations(self, steps: int, guidance: float) -> int:
        """One a step, whatever the guidance."""
        return super().evaluations(steps, 1.0)

    def readers(self) -> list[Reader]:
        """Mistral reads the system message and then the prompt, with all special tokens from the template."""
        prefix = self._chats([PROMPT])[0].partition(PROMPT)[0]
        return [replace(reader, prefix=prefix, special=False) for reader in super().readers()]

    def _chats(self, prompts: list[str]) -> list[str]:
        """Prompts as the pipeline writes them."""
        chats = format_input(prompts, system_message=self.pipeline.system_message)
        found: list[str] = self.pipeline.tokenizer.apply_chat_template(chats, tokenize=False)
        return found

    @classmethod
    def tiny(cls) -> Self:
        """4 x 4 patches of 8 x 8 latents, byte pairs of the system message itself, 60 tokens, 0.2 M parameters."""
        torch.manual_seed(0)
        processor = _tiny.mistral_processor(SYSTEM_MESSAGE)
        parts = tiny_parts(guidance_embeds=True)
        pipeline = Flux2Pipeline(
            **parts,
            text_encoder=Mistral3ForConditionalGeneration(_text(tokenizer_of(processor))).eval(),
            tokenizer=processor,
        )
        return cls(pipeline, resolution=16, max_length=60)


def _text(tokenizer: Any) -> Mistral3Config:
    """Of a tiny text encoder, whose eyes are never open."""
    eyes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": 8}
    return Mistral3Config(
        text_config=_tiny.language_config(MistralConfig, tokenizer, num_hidden_layers=31),
        vision_config={"model_type": "pixtral", "image_size": 16, "patch_size": 16} | eyes,
        image_token_index=tokenizer.convert_tokens_to_ids(_tiny.MISTRAL_MARKS[-1]),
        spatial_merge_size=1,
    )
