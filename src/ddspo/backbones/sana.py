"""SANA: Gemma-2 behind the pipeline's long instruction, latents of a deep compression autoencoder; flow matching."""

import inspect
from collections.abc import Sequence
from typing import Any, Self

import torch
from diffusers import DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2Model

from ddspo.backbones import _tiny
from ddspo.backbones._readers import Reader
from ddspo.backbones.base import Backbone
from ddspo.conditions import Condition

INSTRUCTION: list[str] = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
"""What the pipeline writes before every prompt, and before nothing else."""


class Sana(Backbone):
    """`SanaPipeline` folders and hub ids (SANA 0.6B and 1.6B, SANA 1.5)."""

    pipeline_class = SanaPipeline
    denoiser_name = "transformer"
    lower = True
    lora_targets = ("to_q", "to_k", "to_v")
    guidance = 4.5
    steps = 20
    long_text = 300

    @classmethod
    def dtypes(cls, wanted: torch.dtype) -> dict[str, torch.dtype]:
        """In half precision Gemma-2 is bf16 whatever the transformer is, and the autoencoder stays in fp32."""
        if wanted == torch.float32:
            return {"default": wanted}
        return {"default": wanted, "text_encoder": torch.bfloat16, "vae": torch.float32}

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Gemma's last hidden states, [B, tokens, width], and which of them are text, [B, tokens]."""
        hidden, mask, _, _ = self.pipeline.encode_prompt(
            list(prompts),
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=self.max_length,
            complex_human_instruction=INSTRUCTION,
        )
        return {"encoder_hidden_states": hidden, "encoder_attention_mask": mask}

    def forward(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Some models run on a clock of their own, by a factor in the configuration; some predict a variance too."""
        clock = t * self.config.timestep_scale
        return denoiser(x_t, timestep=clock, **condition, return_dict=False)[0][:, : x_t.shape[1]]

    def readers(self) -> list[Reader]:
        """Gemma reads the instruction and then the prompt, in lower case."""
        tokenizer, prefix = self.pipeline.tokenizer, "\n".join(INSTRUCTION)
        limit = len(tokenizer.encode(prefix)) + int(self.max_length or 0) - 2
        name = f"text_encoder ({type(self.pipeline.text_encoder).__name__})"
        return [Reader(name, tokenizer, limit, prefix, lower=self.lower)]

    @property
    def call(self) -> dict[str, Any]:
        """Exactly the latents' size."""
        return super().call | {"use_resolution_binning": False}

    @classmethod
    def tiny(cls) -> Self:
        """8 x 8 latents, a byte pair tokenizer of the instruction itself, 24 tokens, 0.1 M parameters."""
        torch.manual_seed(0)
        tokenizer = _tiny.gemma_tokenizer("\n".join(INSTRUCTION))
        text = _tiny.language_config(Gemma2Config, tokenizer, num_hidden_layers=1)
        pipeline = SanaPipeline(
            tokenizer=tokenizer,
            text_encoder=Gemma2Model(text),
            vae=_tiny.deep_autoencoder(),
            transformer=SanaTransformer2DModel(
                in_channels=4,
                out_channels=4,
                num_layers=2,
                num_attention_heads=2,
                attention_head_dim=8,
                num_cross_attention_heads=2,
                cross_attention_head_dim=8,
                cross_attention_dim=16,
                caption_channels=16,
                sample_size=8,
            ),
            scheduler=DPMSolverMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
        )
        return cls(pipeline, max_length=24)
