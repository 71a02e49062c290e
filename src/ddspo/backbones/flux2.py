"""FLUX.2 klein, base and distilled: three layers of Qwen3, patches normalised place by place; flow matching."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from diffusers import Flux2KleinPipeline
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from ddspo.backbones import _tiny
from ddspo.backbones._flux2 import Flux2Patches, tiny_parts
from ddspo.backbones._model import Found
from ddspo.backbones._readers import Reader, before_prompt
from ddspo.errors import InputError

QUIET = {"enable_thinking": False}
"""What the pipeline tells the chat template."""


class Flux2(Flux2Patches):
    """`Flux2KleinPipeline` folders and hub ids (FLUX.2 klein 4B and 9B, base and distilled, and their fine-tunes).

    Base is guided by a second prediction. Distilled draws in 4 steps
    without one: it is aligned against itself as it is, nothing is distilled anew, and `draw.states: visited` keeps to
    the few states and times that it knows.
    """

    pipeline_class = Flux2KleinPipeline

    @property
    def distilled(self) -> bool:
        """Whether it draws in few steps and cannot be guided, as its folder says."""
        return bool(self.pipeline.config.is_distilled)

    def read(self, prompts: list[str]) -> Tensor:
        """Qwen's, after 9, 18 and 27 layers."""
        told = {"device": self.device, "max_sequence_length": self.max_length}
        found: Tensor = self.pipeline.encode_prompt(prompts, **told)[0]
        return found

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

    @classmethod
    def tiny(cls, **changes: Any) -> Self:
        """4 x 4 patches of 8 x 8 latents, a token a byte, 48 of them, 0.2 M parameters; `changes` of the pipeline."""
        torch.manual_seed(0)
        tokenizer = _tiny.qwen_tokenizer()
        text = _tiny.language_config(Qwen3Config, tokenizer, num_hidden_layers=28, tie_word_embeddings=True)
        parts = tiny_parts(guidance_embeds=False)
        pipeline = Flux2KleinPipeline(
            **parts, text_encoder=Qwen3ForCausalLM(text).eval(), tokenizer=tokenizer, **changes
        )
        return cls(pipeline, resolution=16, max_length=48)
