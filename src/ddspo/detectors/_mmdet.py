"""Turns a Mask2Former of mmdet 2 into one of transformers: the same network under other names.

Two things are laid out otherwise. mmdet keeps query, key and value of an attention in one tensor, one after the other.
It merges 2 x 2 patches by `unfold`, channel by channel and row by row, where transformers joins four whole patches
column by column. The tables of relative positions agree.
"""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ddspo.errors import InputError, shortened

_BACKBONE = "model.pixel_level_module.encoder"
_PIXELS = "model.pixel_level_module.decoder"
_HEAD = "model.transformer_module"
Pairs = Iterator[tuple[str, str]]
"""mmdet's names, and ours."""
LEVELS = 3
"""Sizes of features that are looked at together."""


def read_mmdet(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint of mmdet, of which nothing is run.

    Raises:
        InputError: It is none.
    """
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{file}: no checkpoint: {shortened(reason, 200)}: remove it, and it is fetched anew"
        ) from None
    state = held.get("state_dict") if isinstance(held, dict) else None
    if not isinstance(state, dict) or not all(isinstance(each, torch.Tensor) for each in state.values()):
        raise InputError(f"{file}: it has no `state_dict` of tensors: it is no checkpoint of mmdet")
    return state


def converted(state: Mapping[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """Weights by the names of transformers' published checkpoints; what mmdet's do not have is left out.

    Args:
        state: Of mmdet's Mask2Former with a Swin backbone, in mmdet's names.
        config: The same network's `Mask2FormerConfig`.
    """
    modules = [*_backbone(config.backbone_config.depths), *_pixel_decoder(config), *_decoder(config)]
    tensors = [(f"{theirs}.{end}", f"{ours}.{end}") for theirs, ours in modules for end in ("weight", "bias")]
    found = {
        ours: _laid_out(theirs, state[theirs]) for theirs, ours in [*tensors, *_tables(config)] if theirs in state
    }
    for theirs, ours in _joined(config):
        if theirs in state:
            found |= zip(ours, state[theirs].chunk(3), strict=True)
    return found


def by_column(merging: torch.Tensor) -> torch.Tensor:
    """Weights of a merging of 2 x 2 patches whose last axis is (channel, row, column), now (column, row, channel)."""
    return merging.reshape(*merging.shape[:-1], -1, 2, 2).transpose(-3, -1).flatten(-3)


def _laid_out(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return by_column(tensor) if ".downsample." in name else tensor


def _blocks(depths: Sequence[int]) -> Pairs:
    for stage, depth in enumerate(depths):
        for n in range(depth):
            yield f"backbone.stages.{stage}.blocks.{n}", f"{_BACKBONE}.encoder.layers.{stage}.blocks.{n}"


def _layers(count: int, theirs: str, ours: str) -> Pairs:
    for n in range(count):
        yield f"panoptic_head.{theirs}.layers.{n}", f"{ours}.layers.{n}"


def _backbone(depths: Sequence[int]) -> Pairs:
    yield "backbone.patch_embed.projection", f"{_BACKBONE}.embeddings.patch_embeddings.projection"
    yield "backbone.patch_embed.norm", f"{_BACKBONE}.embeddings.norm"
    for theirs, ours in _blocks(depths):
        yield f"{theirs}.norm1", f"{ours}.layernorm_before"
        yield f"{theirs}.attn.w_msa.proj", f"{ours}.attention.output.dense"
        yield f"{theirs}.norm2", f"{ours}.layernorm_after"
        yield f"{theirs}.ffn.layers.0.0", f"{ours}.intermediate.dense"
        yield f"{theirs}.ffn.layers.1", f"{ours}.output.dense"
    for stage in range(len(depths)):
        for part in ("norm", "reduction"):
            yield f"backbone.stages.{stage}.downsample.{part}", f"{_BACKBONE}.encoder.layers.{stage}.downsample.{part}"
        yield f"backbone.norm{stage}", f"{_BACKBONE}.hidden_states_norms.stage{stage + 1}"


def _pixel_decoder(config: Any) -> Pairs:
    head = "panoptic_head.pixel_decoder"
    for level in range(LEVELS):
        yield f"{head}.input_convs.{level}.conv", f"{_PIXELS}.input_projections.{level}.0"
        yield f"{head}.input_convs.{level}.gn", f"{_PIXELS}.input_projections.{level}.1"
    for theirs, ours in _layers(config.encoder_layers, "pixel_decoder.encoder", f"{_PIXELS}.encoder"):
        for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            yield f"{theirs}.attentions.0.{part}", f"{ours}.self_attn.{part}"
        yield f"{theirs}.norms.0", f"{ours}.self_attn_layer_norm"
        yield from _feedforward(theirs, ours, 1)
    for theirs, ours in (("lateral_convs.0", "adapter_1"), ("output_convs.0", "layer_1")):
        yield f"{head}.{theirs}.conv", f"{_PIXELS}.{ours}.0"
        yield f"{head}.{theirs}.gn", f"{_PIXELS}.{ours}.1"
    yield f"{head}.mask_feature", f"{_PIXELS}.mask_projection"


def _feedforward(theirs: str, ours: str, norm: int) -> Pairs:
    yield f"{theirs}.ffns.0.layers.0.0", f"{ours}.fc1"
    yield f"{theirs}.ffns.0.layers.1", f"{ours}.fc2"
    yield f"{theirs}.norms.{norm}", f"{ours}.final_layer_norm"


def _decoder(config: Any) -> Pairs:
    for theirs, ours in _layers(config.decoder_layers - 1, "transformer_decoder", f"{_HEAD}.decoder"):
        yield f"{theirs}.attentions.0.attn.out_proj", f"{ours}.cross_attn.out_proj"
        yield f"{theirs}.norms.0", f"{ours}.cross_attn_layer_norm"
        yield f"{theirs}.attentions.1.attn.out_proj", f"{ours}.self_attn.out_proj"
        yield f"{theirs}.norms.1", f"{ours}.self_attn_layer_norm"
        yield from _feedforward(theirs, ours, 2)
    yield "panoptic_head.transformer_decoder.post_norm", f"{_HEAD}.decoder.layernorm"
    yield "panoptic_head.query_embed", f"{_HEAD}.queries_embedder"
    yield "panoptic_head.query_feat", f"{_HEAD}.queries_features"
    yield "panoptic_head.level_embed", f"{_HEAD}.level_embed"
    yield "panoptic_head.cls_embed", "class_predictor"
    for n in range(3):  # its odd numbers are activations
        yield f"panoptic_head.mask_embed.{2 * n}", f"{_HEAD}.decoder.mask_predictor.mask_embedder.{n}.0"


def _tables(config: Any) -> Pairs:
    """Single tensors that keep their layout."""
    table = "relative_position_bias_table"
    for theirs, ours in _blocks(config.backbone_config.depths):
        yield f"{theirs}.attn.w_msa.{table}", f"{ours}.attention.self.{table}"
    yield "panoptic_head.pixel_decoder.level_encoding.weight", f"{_PIXELS}.level_embed"
    for theirs, ours in _layers(config.decoder_layers - 1, "transformer_decoder", f"{_HEAD}.decoder"):
        for end in ("weight", "bias"):
            yield f"{theirs}.attentions.0.attn.in_proj_{end}", f"{ours}.cross_attn.in_proj_{end}"


def _joined(config: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Tensors that hold query, key and value, and the names of the three."""
    for end in ("weight", "bias"):
        for theirs, ours in _blocks(config.backbone_config.depths):
            parts = tuple(f"{ours}.attention.self.{part}.{end}" for part in ("query", "key", "value"))
            yield f"{theirs}.attn.w_msa.qkv.{end}", parts
        for theirs, ours in _layers(config.decoder_layers - 1, "transformer_decoder", f"{_HEAD}.decoder"):
            parts = tuple(f"{ours}.self_attn.{part}_proj.{end}" for part in "qkv")
            yield f"{theirs}.attentions.1.attn.in_proj_{end}", parts
