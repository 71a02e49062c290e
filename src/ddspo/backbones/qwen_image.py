"""Qwen-Image: a vision-language model behind an instruction, an autoencoder of videos, CFG that keeps norms; flow."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from ddspo.backbones import _tiny
from ddspo.backbones._packed import Packed
from ddspo.backbones._readers import Reader, few
from ddspo.conditions import Condition
from ddspo.errors import InputError

LONGEST = 1024
"""Tokens that the pipeline reads at most."""


class QwenImage(Packed):
    """`QwenImagePipeline` folders and hub ids (Qwen-Image, Qwen-Image-2512 and their fine-tunes).

    Guidance is the pipeline's "true" one: a second prediction, for the prompt " ", and the sum rescaled to the norm
    of the first.
    """

    pipeline_class = QwenImagePipeline
    guidance = 4.0
    steps = 50
    draws_smaller = False

    def __init__(self, pipeline: Any, **options: Any) -> None:
        super().__init__(pipeline, **options)
        if self.max_length and self.max_length > LONGEST:
            raise InputError(f"model.max_length {self.max_length}: the pipeline reads {LONGEST} at most: give less")
        self.denoiser.get_submodule(f"transformer_blocks.{self.config.num_layers - 1}").register_forward_hook(_reach)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Qwen's last hidden states after the instruction, [B, tokens, width], and which are text, [B, tokens].

        Not by the pipeline, which also computes what word would come next, and pads to the longest text it is given.
        """
        parts = [self._read(part) for part in few(prompts)]
        hidden, mask = (torch.cat(each) for each in zip(*parts, strict=True))
        return {"encoder_hidden_states": hidden, "encoder_hidden_states_mask": mask}

    def _read(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Of few prompts."""
        texts = [self.pipeline.prompt_template_encode.format(prompt) for prompt in prompts]
        length = int(self.max_length or 0) + self._dropped
        read = self.pipeline.tokenizer(
            texts,
            padding="max_length",
            max_length=length,
            truncation=True,
            padding_side="right",
            return_tensors="pt",
        ).to(self.device)
        found = self.pipeline.text_encoder.model(input_ids=read.input_ids, attention_mask=read.attention_mask)
        hidden, mask = found.last_hidden_state[:, self._dropped :], read.attention_mask[:, self._dropped :].bool()
        return hidden.masked_fill(~mask[..., None], 0), mask

    def forward(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The clock runs from 0 to 1, and an image is a video of one frame, told by its patches."""
        shape = (1, x_t.shape[2] // 2, x_t.shape[3] // 2)
        options = {"img_shapes": [[shape]] * len(x_t), "return_dict": False}
        found = denoiser(self.pack(x_t), timestep=t / 1000, **condition, **options)[0]
        return self.unpacked(found, *x_t.shape[2:])

    def guided(self, guidance: float, count: int) -> dict[str, Any]:
        """In its own words, with the negative prompt without which there is none."""
        return {"true_cfg_scale": guidance} | ({"negative_prompt": [" "] * count} if guidance > 1 else {})

    def readers(self) -> list[Reader]:
        """Qwen reads the instruction and then the prompt; tokens of the instruction do not count."""
        prefix, limit = self.pipeline.prompt_template_encode.partition("{}")[0], int(self.max_length or 0)
        return [replace(each, prefix=prefix, limit=limit + self._dropped) for each in super().readers()]

    @property
    def _dropped(self) -> int:
        """Tokens of the instruction, which the transformer does not see."""
        return int(self.pipeline.prompt_template_encode_start_idx)

    @property
    def _multiple(self) -> int:
        return int(self.pipeline.image_processor.config.vae_scale_factor)

    @classmethod
    def tiny(cls) -> Self:
        """8 x 8 latents, one token a byte, 192 of them, of which the instruction has 131 left, 0.2 M parameters."""
        torch.manual_seed(0)
        tokenizer = _tiny.qwen_tokenizer()
        pipeline = QwenImagePipeline(
            transformer=QwenImageTransformer2DModel(
                in_channels=16,
                out_channels=4,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=_tiny.WIDTH,
                axes_dims_rope=(4, 6, 6),
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=0.9),
            vae=AutoencoderKLQwenImage(
                base_dim=4,
                z_dim=4,
                dim_mult=[1, 1],
                num_res_blocks=1,
                temperal_downsample=[False],
                latents_mean=[-0.7, 0.1, 0.4, -0.2],
                latents_std=[2.8, 1.4, 2.3, 2.6],
            ),
            text_encoder=Qwen2_5_VLForConditionalGeneration(_text(len(tokenizer))).eval(),
            tokenizer=tokenizer,
        )
        return cls(pipeline, resolution=16, max_length=192)


def _text(vocabulary: int) -> Qwen2_5_VLConfig:
    """Of a tiny text encoder, whose eyes are never open."""
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}
    text = {"vocab_size": vocabulary, "hidden_size": _tiny.WIDTH, "intermediate_size": 32, "rope_parameters": rope}
    eyes = {"depth": 1, "hidden_size": 8, "num_heads": 1, "intermediate_size": 8, "out_hidden_size": _tiny.WIDTH}
    return Qwen2_5_VLConfig(text_config=text | heads, vision_config=eyes | {"fullatt_block_indexes": [0]})


def _reach(_: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A gradient of zero for what the last block does to the text, which nothing reads.

    Training on several devices waits for a gradient of every weight, and none would come.
    """
    text, image = output
    return text, image + 0 * text.mean() if torch.is_grad_enabled() else image
