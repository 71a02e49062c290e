"""Names of LoRA weights in the formats of other tools: dictionaries to dictionaries, no files."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ddspo.errors import InputError
from ddspo.exports._adapter import Adapter, Layer


def kohya(adapter: Adapter, rename: Callable[[str], str]) -> dict[str, Tensor]:
    """lora_unet_MODULE_NAME.{lora_down.weight, lora_up.weight, alpha}, one triple a module.

    Args:
        adapter: What to name.
        rename: From a module's name in diffusers to its name in the tool's own network.
    """
    found: dict[str, Tensor] = {}
    for name, layer in adapter.layers.items():
        found |= _triple(rename(name), layer)
    return found


_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET = re.compile(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(resnets|attentions)\.(\d+)\.(.+)")


def unet_name(name: str) -> str:
    """A module of a diffusers U-Net by that same name, if it is one that kohya's files may hold.

    Raises:
        InputError: It lies outside attention and residual blocks.
    """
    _unet_parts(name)
    return name


def ldm_name(name: str, layers_per_block: int) -> str:
    """A module of a diffusers U-Net by its name in the original network, which SDXL files of kohya use.

    With L layers a block: down_blocks.b, layer l -> input_blocks.(1 + b (L + 1) + l), up_blocks.b, layer l ->
    output_blocks.(b (L + 1) + l), inside each 0 is the residual block and 1 the attention; middle_block is 0, 1, 2.

    Raises:
        InputError: It lies outside attention and residual blocks.
    """
    side, block, kind, layer, rest = _unet_parts(name)
    inner = _RESNET[rest] if kind == "resnets" else rest
    place = 0 if kind == "resnets" else 1
    if side is None:
        return f"middle_block.{2 * layer if kind == 'resnets' else 1}.{inner}"
    first = block * (layers_per_block + 1) + layer
    return f"input_blocks.{1 + first}.{place}.{inner}" if side == "down" else f"output_blocks.{first}.{place}.{inner}"


def _unet_parts(name: str) -> tuple[str | None, int, str, int, str]:
    match = _UNET.fullmatch(name)
    if match is None or (match[3] == "resnets" and match[5] not in _RESNET):
        raise InputError(f"kohya files have no place for {name}: use --format diffusers or merged")
    return match[1], int(match[2] or 0), match[3], int(match[4]), match[5]


_FLUX_WHOLE: dict[str, dict[str, str]] = {
    "transformer_blocks": {
        "attn.to_out.0": "img_attn.proj",
        "attn.to_add_out": "txt_attn.proj",
        "ff.net.0.proj": "img_mlp.0",
        "ff.net.2": "img_mlp.2",
        "ff_context.net.0.proj": "txt_mlp.0",
        "ff_context.net.2": "txt_mlp.2",
        "norm1.linear": "img_mod.lin",
        "norm1_context.linear": "txt_mod.lin",
    },
    "single_transformer_blocks": {"proj_out": "linear2", "norm.linear": "modulation.lin"},
}
_FLUX_FUSED: dict[str, dict[str, tuple[str, ...]]] = {
    "transformer_blocks": {
        "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    },
    "single_transformer_blocks": {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")},
}
_FLUX = re.compile(r"(transformer_blocks|single_transformer_blocks)\.(\d+)\.(.+)")


def kohya_flux(adapter: Adapter) -> dict[str, Tensor]:
    """FLUX.1 by the names of its original network, where query, key, value (and MLP) are one weight.

    Of n parts with updates s_i B_i A_i the fused weight's update is s diag(s_1/s B_1 ... s_n/s B_n) [A_1; ...; A_n]:
    ranks add up, and alpha is s times their sum. A part without adapter is zero.

    Raises:
        InputError: A module that these files have no place for.
    """

    def rows(target: str, width: int) -> tuple[int, ...]:
        return (width,) * 3 + ((4 * width,) if target.endswith("linear1") else ())

    return _with_fused(adapter, _flux_place, rows)


def _flux_place(name: str) -> tuple[str, int | None]:
    """Name in the original network, and which part of a fused weight it is (None: a weight of its own)."""
    match = _FLUX.fullmatch(name)
    kind, inner = (match[1], match[3]) if match else ("", "")
    block = f"{'double' if kind == 'transformer_blocks' else 'single'}_blocks.{match[2] if match else ''}"
    if inner in _FLUX_WHOLE.get(kind, {}):
        return f"{block}.{_FLUX_WHOLE[kind][inner]}", None
    for target, parts in _FLUX_FUSED.get(kind, {}).items():
        if inner in parts:
            return f"{block}.{target}", parts.index(inner)
    raise InputError(f"kohya files have no place for {name}: use --format diffusers or merged")


_LUMINA2_WHOLE = {
    "attn.to_out.0": "attention.out",
    "feed_forward.linear_1": "feed_forward.w1",
    "feed_forward.linear_2": "feed_forward.w2",
    "feed_forward.linear_3": "feed_forward.w3",
    "norm1.linear": "adaLN_modulation.1",
}
_LUMINA2_FUSED = ("attn.to_q", "attn.to_k", "attn.to_v")
_LUMINA2 = re.compile(r"((?:layers|noise_refiner|context_refiner)\.\d+)\.(.+)")


def kohya_lumina2(adapter: Adapter, rows: tuple[int, int, int]) -> dict[str, Tensor]:
    """Lumina-Image 2.0 by the names of its original network, where query, key and value are one weight, as in FLUX.1.

    Args:
        adapter: What to name.
        rows: Outputs of query, key and value, which are of unequal sizes: several queries share a key.

    Raises:
        InputError: A module that these files have no place for.
    """
    return _with_fused(adapter, lumina2_place, lambda target, width: rows)


def lumina2_place(name: str) -> tuple[str, int | None]:
    """Name in the original network, and which part of a fused weight it is (None: a weight of its own).

    Raises:
        InputError: It has none there, or lies outside the blocks.
    """
    match = _LUMINA2.fullmatch(name)
    block, inner = (match[1], match[2]) if match else ("", "")
    if inner in _LUMINA2_FUSED:
        return f"{block}.attention.qkv", _LUMINA2_FUSED.index(inner)
    if inner in _LUMINA2_WHOLE:
        return f"{block}.{_LUMINA2_WHOLE[inner]}", None
    raise InputError(f"kohya files have no place for {name}: use --format diffusers or merged")


def _with_fused(
    adapter: Adapter,
    place: Callable[[str], tuple[str, int | None]],
    rows: Callable[[str, int], tuple[int, ...]],
) -> dict[str, Tensor]:
    """A triple for each weight of the original network, `rows` being the outputs of a fused one's parts."""
    found: dict[str, Tensor] = {}
    fused: dict[str, dict[int, Layer]] = defaultdict(dict)
    for name, layer in adapter.layers.items():
        target, part = place(name)
        if part is None:
            found |= _triple(target, layer)
        else:
            fused[target][part] = layer
    for target, parts in fused.items():
        width = next(iter(parts.values())).down.shape[1]
        found |= _triple(target, _fuse(parts, rows(target, width)))
    return found


def _fuse(parts: Mapping[int, Layer], rows: tuple[int, ...]) -> Layer:
    """One layer for stacked weights [rows of a part, width]."""
    down, _, scale = next(iter(parts.values()))
    width, rank = down.shape[1], max(layer.rank for layer in parts.values())
    layers = [
        parts.get(part) or Layer(down.new_zeros(rank, width), down.new_zeros(own, rank), scale)
        for part, own in enumerate(rows)
    ]
    ups = [layer.up if layer.scale == scale else layer.up * (layer.scale / scale) for layer in layers]
    return Layer(torch.cat([layer.down for layer in layers]), torch.block_diag(*ups), scale)  # type: ignore[no-untyped-call]


def _triple(name: str, layer: Layer) -> dict[str, Tensor]:
    key = f"lora_unet_{name.replace('.', '_')}"
    return {
        f"{key}.lora_down.weight": layer.down,
        f"{key}.lora_up.weight": layer.up,
        f"{key}.alpha": torch.tensor(layer.alpha),
    }


def scaled(adapter: Adapter, prefix: str) -> dict[str, Tensor]:
    """PREFIX.MODULE.lora_A.weight and .lora_B.weight, the scale multiplied into B so that no reader needs it."""
    found = {}
    for name, layer in adapter.layers.items():
        found[f"{prefix}.{name}.lora_A.weight"] = layer.down
        found[f"{prefix}.{name}.lora_B.weight"] = layer.up * layer.scale
    return found
