"""Weights of mmdet's Mask2Former become those of transformers: names, joined attentions, merged patches."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_detectors import CPU, mask2former, mask2former_config
from torch import nn
from transformers import Mask2FormerForUniversalSegmentation
from transformers.models.swin.modeling_swin import SwinPatchMerging, SwinRelativePositionBias

from ddspo.detectors._loading import loaded
from ddspo.detectors._mmdet import by_column, converted, read_mmdet
from ddspo.detectors.mask2former import official_config
from ddspo.errors import InputError


def by_row(merging: torch.Tensor) -> torch.Tensor:
    """Last axis from (column, row, channel) to (channel, row, column): what `unfold` gives."""
    return merging.reshape(*merging.shape[:-1], 2, 2, -1).movedim(-1, -3).transpose(-1, -2).flatten(-3)


def mmdet_names(name: str) -> str:
    """mmdet's name of a published weight, by replacing its parts one after another."""
    if name.startswith("model.pixel_level_module.encoder."):
        name = name.removeprefix("model.pixel_level_module.encoder.")
        for ours, theirs in (
            ("embeddings.patch_embeddings.", "patch_embed."),
            ("embeddings.norm", "patch_embed.norm"),
            ("encoder.layers.", "stages."),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("attention.self.relative", "attn.w_msa.relative"),
            ("attention.self.", "attn.w_msa.qkv."),
            ("attention.output.dense", "attn.w_msa.proj"),
            ("intermediate.dense", "ffn.layers.0.0"),
            ("output.dense", "ffn.layers.1"),
            *((f"hidden_states_norms.stage{n + 1}", f"norm{n}") for n in range(4)),
        ):
            name = name.replace(ours, theirs)
        return "backbone." + name
    if name.startswith("model.pixel_level_module.decoder."):
        name = name.removeprefix("model.pixel_level_module.decoder.")
        if name == "level_embed":
            return "panoptic_head.pixel_decoder.level_encoding.weight"
        for ours, theirs in (
            *(
                (f"input_projections.{n}.{m}.", f"input_convs.{n}.{('conv', 'gn')[m]}.")
                for n in range(3)
                for m in (0, 1)
            ),
            *((f"{a}_1.{m}.", f"{b}_convs.0.{('conv', 'gn')[m]}.") for a, b in FPN for m in (0, 1)),
            ("mask_projection", "mask_feature"),
            ("self_attn_layer_norm", "norms.0"),
            ("final_layer_norm", "norms.1"),
            ("self_attn.", "attentions.0."),
            *FEEDFORWARD,
        ):
            name = name.replace(ours, theirs)
        return "panoptic_head.pixel_decoder." + name
    for ours, theirs in (
        ("model.transformer_module.", "panoptic_head."),
        ("class_predictor", "panoptic_head.cls_embed"),
        *((f"decoder.mask_predictor.mask_embedder.{n}.0", f"mask_embed.{2 * n}") for n in range(3)),
        ("decoder.layernorm", "transformer_decoder.post_norm"),
        ("queries_embedder", "query_embed"),
        ("queries_features", "query_feat"),
        ("decoder.layers", "transformer_decoder.layers"),
        ("cross_attn_layer_norm", "norms.0"),
        ("self_attn_layer_norm", "norms.1"),
        ("final_layer_norm", "norms.2"),
        ("cross_attn.", "attentions.0.attn."),
        ("self_attn.", "attentions.1.attn."),
        *FEEDFORWARD,
    ):
        name = name.replace(ours, theirs)
    return name


FPN = (("adapter", "lateral"), ("layer", "output"))
FEEDFORWARD = (("fc1", "ffns.0.layers.0.0"), ("fc2", "ffns.0.layers.1"))


def as_mmdet(published: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `converted`, written apart from it."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in published.items():
        if "criterion." in name or "swin.layernorm" in name:
            continue
        theirs = mmdet_names(name)
        for joined, parts in (("qkv", ("query", "key", "value")), ("in_proj", ("q_proj", "k_proj", "v_proj"))):
            if any(f".{part}." in theirs for part in parts) and "cross_attn" not in name:
                before, part, ending = theirs.rsplit(".", 2)
                if part == parts[0]:
                    every = [published[name.replace(f".{part}.", f".{each}.")] for each in parts]
                    whole = f"{before}.{ending}" if joined == "qkv" else f"{before}.in_proj_{ending}"
                    found[whole] = torch.cat(every)
                break
        else:
            found[theirs] = by_row(tensor) if ".downsample." in theirs else tensor
    return found


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("mask2former")
    mask2former().save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def test_there_and_back_nothing_changes(published: dict[str, torch.Tensor]) -> None:
    """Every weight has a place, and the network says the same of an image."""
    theirs = as_mmdet(published)
    theirs["backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"] = torch.zeros(9, 9)
    config = mask2former_config()
    back = loaded(Mask2FormerForUniversalSegmentation, None, CPU, config=config, state_dict=converted(theirs, config))
    pixels = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        expected, found = mask2former()(pixels), back(pixels)
    assert expected.masks_queries_logits.std() > 0.1
    torch.testing.assert_close(found.class_queries_logits, expected.class_queries_logits)
    torch.testing.assert_close(found.masks_queries_logits, expected.masks_queries_logits)


def test_names_of_mmdet(published: dict[str, torch.Tensor]) -> None:
    """Some as they stand in a checkpoint of mmdet 2; the inverse above makes no others than these kinds."""
    names = as_mmdet(published).keys()
    for each in (
        "backbone.patch_embed.projection.weight",
        "backbone.stages.2.blocks.1.attn.w_msa.qkv.bias",
        "backbone.stages.2.blocks.1.attn.w_msa.relative_position_bias_table",
        "backbone.stages.0.blocks.1.ffn.layers.0.0.weight",
        "backbone.stages.0.downsample.reduction.weight",
        "backbone.norm3.weight",
        "panoptic_head.pixel_decoder.input_convs.2.gn.weight",
        "panoptic_head.pixel_decoder.encoder.layers.1.attentions.0.sampling_offsets.weight",
        "panoptic_head.pixel_decoder.encoder.layers.1.ffns.0.layers.1.bias",
        "panoptic_head.pixel_decoder.encoder.layers.1.norms.1.bias",
        "panoptic_head.pixel_decoder.level_encoding.weight",
        "panoptic_head.pixel_decoder.lateral_convs.0.conv.weight",
        "panoptic_head.pixel_decoder.mask_feature.bias",
        "panoptic_head.transformer_decoder.layers.2.attentions.0.attn.in_proj_weight",
        "panoptic_head.transformer_decoder.layers.2.attentions.1.attn.in_proj_bias",
        "panoptic_head.transformer_decoder.layers.2.norms.2.weight",
        "panoptic_head.transformer_decoder.post_norm.weight",
        "panoptic_head.query_feat.weight",
        "panoptic_head.mask_embed.4.weight",
        "panoptic_head.cls_embed.bias",
    ):
        assert each in names


def test_patches_are_merged_as_unfold_merges_them() -> None:
    """mmdet: unfold by 2 x 2 (channel, row, column), layer norm, a linear map; the sizes are odd, which both fill."""
    torch.manual_seed(0)
    norm, reduction = nn.LayerNorm(4 * 6), nn.Linear(4 * 6, 12, bias=False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    features = torch.randn(2, 6, 5, 7)
    filled = nn.functional.pad(features, (0, 1, 0, 1))
    expected = reduction(norm(nn.Unfold(2, stride=2)(filled).transpose(1, 2)))
    merging = SwinPatchMerging(dim=6)
    theirs = {"norm.weight": norm.weight, "norm.bias": norm.bias, "reduction.weight": reduction.weight}
    merging.load_state_dict({name: by_column(tensor) for name, tensor in theirs.items()})
    found = merging(features.flatten(2).transpose(1, 2), (5, 7))
    torch.testing.assert_close(found, expected)
    merging.load_state_dict(theirs)
    assert not torch.allclose(merging(features.flatten(2).transpose(1, 2), (5, 7)), expected)


def test_tables_of_relative_positions_agree() -> None:
    """mmdet: c = (2W - 1) row + column; the place of a pair (a, b) is c[a] + c[last - b]."""
    side = 7
    c = torch.tensor([(2 * side - 1) * row + column for row in range(side) for column in range(side)])
    expected = c[:, None] + c.flip(0)[None]
    bias = SwinRelativePositionBias(1, (side, side))
    torch.testing.assert_close(bias.relative_position_index.reshape(side**2, side**2), expected)


def test_a_lacking_weight_is_named(published: dict[str, torch.Tensor]) -> None:
    theirs = as_mmdet(published)
    del theirs["panoptic_head.query_embed.weight"]
    config = mask2former_config()
    with pytest.raises(InputError, match="queries_embedder"):
        loaded(Mask2FormerForUniversalSegmentation, None, CPU, config=config, state_dict=converted(theirs, config))


def test_a_file_of_mmdet(tmp_path: Path) -> None:
    file = tmp_path / "some.pth"
    torch.save({"meta": {"CLASSES": ("cat",)}, "state_dict": {"a": torch.ones(2)}}, file)
    assert read_mmdet(file)["a"].tolist() == [1, 1]
    for held in ({"model": {}}, [3], {"state_dict": {"a": "b"}}):
        torch.save(held, file)
        with pytest.raises(InputError, match="no `state_dict` of tensors"):
            read_mmdet(file)
    for data in (b"", b"no checkpoint", pickle.dumps(Path("x"), protocol=2)):
        file.write_bytes(data)
        with pytest.raises(InputError, match="no checkpoint"):
            read_mmdet(file)


def test_the_official_network_is_swin_small() -> None:
    """68.7 million parameters, 275 MB: 2 + 2 + 18 + 2 blocks of 96 to 768 channels, 6 and 9 layers of 256."""
    with torch.device("meta"):
        model = Mask2FormerForUniversalSegmentation(official_config())
    assert sum(each.numel() for each in model.parameters()) == 68_741_083
    assert model.config.num_queries == 100
    assert len(model.model.transformer_module.decoder.layers) == 9
