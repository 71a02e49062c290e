"""Weights of open_clip's ViTs under the names that transformers gives them."""

import re
from collections.abc import Iterator, Mapping

import torch

TOWERS = {"visual.transformer.": "vision_model.encoder.", "transformer.": "text_model.encoder."}
"""Where the blocks of either tower are."""
BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
"""The parts of a block, but for the fused projections of queries, keys and values."""
SINGLE = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
"""Matrices that open_clip multiplies from the right, x P, and transformers' linear layers as x W^T."""


def from_open_clip(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of open_clip's CLIP as one of transformers' CLIPModel; unknown names stay."""
    return {name: each for old, tensor in weights.items() for name, each in _renamed(old, tensor)}


def _renamed(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    block = re.fullmatch(r"((?:visual\.)?transformer\.)resblocks\.(\d+)\.(.+)\.?(weight|bias)", name)
    if name in TRANSPOSED:
        yield TRANSPOSED[name], tensor.T.contiguous()
    elif block is None:
        yield SINGLE.get(name, name), tensor
    else:
        tower, number, part, kind = block.groups()
        yield from _of_block(f"{TOWERS[tower]}layers.{number}.", part, kind, tensor)


def _of_block(start: str, part: str, kind: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    if part == "attn.in_proj_":
        for name, each in zip("qkv", tensor.chunk(3), strict=True):
            yield f"{start}self_attn.{name}_proj.{kind}", each
    else:
        part = part.rstrip(".")
        yield f"{start}{BLOCK.get(part, part)}.{kind}", tensor
