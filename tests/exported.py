"""What other tools do with a file that was written for them, by hand."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def add(denoiser: nn.Module, weights: dict[str, Tensor]) -> None:
    """What ComfyUI does with transformer.NAME.lora_A and lora_B and no alpha: W + B A."""
    for key in [key for key in weights if key.endswith(".lora_A.weight")]:
        name = key.removeprefix("transformer.").removesuffix(".lora_A.weight")
        denoiser.get_submodule(name).weight += weights.pop(key.replace("lora_A", "lora_B")) @ weights.pop(key)
    assert weights == {}


@torch.no_grad()
def add_fused(denoiser: nn.Module, weights: dict[str, Tensor]) -> None:
    """FLUX.1, Chroma and Lumina 2 under their original names, query, key and value below one another."""
    places: dict[str, tuple[str, tuple[str, ...]]] = {
        "double_blocks_{}_img_attn_qkv": ("transformer_blocks.{}.attn", ("to_q", "to_k", "to_v")),
        "double_blocks_{}_txt_attn_qkv": ("transformer_blocks.{}.attn", ("add_q_proj", "add_k_proj", "add_v_proj")),
        "double_blocks_{}_img_attn_proj": ("transformer_blocks.{}.attn", ("to_out.0",)),
        "double_blocks_{}_txt_attn_proj": ("transformer_blocks.{}.attn", ("to_add_out",)),
        "single_blocks_{}_linear1": (
            "single_transformer_blocks.{}",
            ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
        ),
    }
    for part in ("layers", "noise_refiner", "context_refiner"):
        places[f"{part}_{{}}_attention_qkv"] = (f"{part}.{{}}.attn", ("to_q", "to_k", "to_v"))
        places[f"{part}_{{}}_attention_out"] = (f"{part}.{{}}.attn", ("to_out.0",))
    for pattern, (parent, names) in places.items():
        for block in range(2):
            key = f"lora_unet_{pattern.format(block)}"
            if f"{key}.alpha" in weights:
                down, up = weights.pop(f"{key}.lora_down.weight"), weights.pop(f"{key}.lora_up.weight")
                update = weights.pop(f"{key}.alpha") / down.shape[0] * up @ down
                targets = [denoiser.get_submodule(f"{parent.format(block)}.{name}").weight for name in names]
                for target, rows in zip(targets, update.split([len(target) for target in targets]), strict=True):
                    target += rows
    assert weights == {}
