"""BLIP's image encoder, and its text encoder that looks at images, as its authors saved them, in transformers."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ddspo.backbones._model import short
from ddspo.errors import InputError
from ddspo.metrics._tensors import network_with, under

HEAD = 64
"""Numbers of an attention head in every BLIP; weights do not tell."""
VISION = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
}
BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
}
"""Parts of the image encoder that have another name in transformers; the text encoder's all have the same."""

Weights = Mapping[str, torch.Tensor]


class Blip(NamedTuple):
    """Both encoders, on a device."""

    vision: Any
    text: Any

    @property
    def side(self) -> int:
        """Pixels of the square images that it reads."""
        return int(self.vision.config.image_size)

    @torch.no_grad()
    def read(self, pixels: torch.Tensor, tokens: Any) -> torch.Tensor:
        """The states of each text's first token after looking at its image: [N, width] in float32.

        Args:
            pixels: Normalised images [N, 3, side, side].
            tokens: What a tokenizer gives for as many texts; padding is masked.
        """
        batch = pixels.to(self.vision.device, self.vision.dtype)
        tokens = tokens.to(self.text.device)
        states = self.text(
            tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=self.vision(pixel_values=batch).last_hidden_state,
        )
        return states.last_hidden_state[:, 0].float().cpu()


def build_blip(where: str, weights: Weights, device: torch.device, dtype: torch.dtype) -> Blip:
    """The encoders whose weights are under `visual_encoder.` and `text_encoder.`, of the sizes that they have.

    Args:
        where: How a message begins.
        weights: As BLIP's authors named them.
        device: Where it computes.
        dtype: In which precision.

    Raises:
        InputError: Some are missing, or of another network.
    """
    from transformers import BlipTextModel, BlipVisionModel

    vision, text = under("visual_encoder.", weights), under("text_encoder.", weights)
    try:
        configs = vision_config(vision), text_config(text)
    except (KeyError, ValueError) as error:  # a name is missing, or a shape is of something else
        raise InputError(f"{where}: no BLIP ({short(error)}): get its files anew") from None
    renamed = {_vision_name(name): each for name, each in vision.items()}
    seeing = network_with(where, BlipVisionModel, configs[0], renamed, dtype=dtype)
    reading = network_with(where, BlipTextModel, configs[1], text, dtype=dtype, add_pooling_layer=False)
    return Blip(seeing.to(device), reading.to(device))


def vision_config(weights: Weights) -> Any:
    """Of the image encoder that has these weights; its norms are those of timm's ViT, with 1e-6."""
    from transformers import BlipVisionConfig

    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=weights["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_layers(r"blocks\.(\d+)\.", weights),
        num_attention_heads=width // HEAD,
        image_size=round((weights["pos_embed"].shape[1] - 1) ** 0.5) * patch,
        patch_size=patch,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
    )


def text_config(weights: Weights) -> Any:
    """Of the text encoder that has these weights: BERT with cross-attention in every layer."""
    from transformers import BlipTextConfig

    vocabulary, width = weights["embeddings.word_embeddings.weight"].shape
    return BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        encoder_hidden_size=weights["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=weights["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_layers(r"encoder\.layer\.(\d+)\.", weights),
        num_attention_heads=width // HEAD,
        max_position_embeddings=weights["embeddings.position_embeddings.weight"].shape[0],
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        is_decoder=True,  # in transformers, what has cross-attention; it reads in both directions all the same
        bos_token_id=None,
        eos_token_id=None,
        sep_token_id=None,
    )


def _vision_name(name: str) -> str:
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(\w+)", name)
    if block:
        number, part, kind = block.groups()
        return f"encoder.layers.{number}.{BLOCK.get(part, part)}.{kind}"
    part, dot, kind = name.rpartition(".") if name.endswith(("weight", "bias")) else (name, "", "")
    return VISION.get(part, part) + dot + kind


def _layers(pattern: str, weights: Weights) -> int:
    return 1 + max(int(found[1]) for name in weights if (found := re.match(pattern, name)))
