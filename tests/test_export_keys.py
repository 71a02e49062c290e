"""Names of LoRA weights in other tools' formats, read back key by key by diffusers' own loaders."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Transformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)
from diffusers.loaders.single_file_utils import convert_lumina2_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from benchmarks import outlines
from ddspo.errors import InputError
from ddspo.exports._adapter import Adapter, Layer, read
from ddspo.exports._keys import kohya, kohya_flux, kohya_lumina2, ldm_name, lumina2_place, scaled, unet_name
from ddspo.exports.comfyui import TRANSFORMERS

RANK, ALPHA = 4, 8.0
SCALE = ALPHA / RANK
CONFIG = {"r": RANK, "lora_alpha": ALPHA}
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
FEED_FORWARD = ["ff.net.0.proj", "ff.net.2"]
UNET = [*ATTENTION, *FEED_FORWARD, "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut", "time_emb_proj"]
AURA = ["linear_1", "linear_2", "out_projection"]
JOINT = [*ATTENTION, *FEED_FORWARD, *AURA, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]


def sd() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def sdxl() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 24),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 3),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=32,
    )


def sd3() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=8,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=8,
        pooled_projection_dim=8,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
    )


def flux() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 2, 2),
    )


def chroma() -> ChromaTransformer2DModel:
    return ChromaTransformer2DModel(
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        axes_dims_rope=(4, 2, 2),
        approximator_num_channels=16,
        approximator_hidden_dim=8,
        approximator_layers=1,
    )


def auraflow() -> AuraFlowTransformer2DModel:
    return AuraFlowTransformer2DModel(
        sample_size=8,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=16,
        pos_embed_max_size=16,
    )


def trained(denoiser: nn.Module, targets: list[str]) -> Adapter:
    """A LoRA of random matrices on `denoiser`, as it would come out of a file."""
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets), denoiser, "default")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    weights = matrices(denoiser, "default")
    return read({f"net.{key}": rows for key, rows in weights.items()}, "net", CONFIG)


def matrices(denoiser: nn.Module, name: str) -> dict[str, Tensor]:
    return get_peft_model_state_dict(denoiser, adapter_name=name)


def effective(denoiser: nn.Module) -> dict[str, Tensor]:
    """W + (alpha / rank) B A of every adapted module, by its name."""
    found = {}
    for name, module in denoiser.named_modules():
        if isinstance(module, LoraLayer):
            (adapter,) = module.lora_A
            found[name] = module.get_base_layer().weight + module.get_delta_weight(adapter)
    return found


def pipeline(cls: Any, **denoiser: nn.Module) -> Any:
    """A pipeline of the real class that has its denoiser and nothing else."""
    parameters = inspect.signature(cls).parameters.values()
    return cls(**{each.name: None for each in parameters if each.default is inspect.Parameter.empty} | denoiser)


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("make", "cls", "rename"),
    [
        (sd, StableDiffusionPipeline, unet_name),
        (sdxl, StableDiffusionXLPipeline, lambda name: ldm_name(name, 2)),
        (sdxl, StableDiffusionXLPipeline, unet_name),
    ],
    ids=["sd", "sdxl", "sdxl-diffusers-names"],
)
def test_kohya_unets_come_back_through_diffusers(
    make: Callable[[], nn.Module], cls: Any, rename: Callable[[str], str]
) -> None:
    """Every module of attention and residual blocks, every matrix, and alpha 8 beside rank 4."""
    torch.manual_seed(0)
    plain, denoiser = make(), make()
    denoiser.load_state_dict(plain.state_dict())
    adapter = trained(denoiser, UNET)
    weights = kohya(adapter, rename)
    assert len(weights) == 3 * len(adapter.layers)
    assert all(key.startswith("lora_unet_") for key in weights)
    pipeline(cls, unet=plain).load_lora_weights(dict(weights))
    same(effective(plain), effective(denoiser))
    same(matrices(plain, "default_0"), matrices(denoiser, "default"))
    (config,) = plain.peft_config.values()
    assert (config.r, config.lora_alpha) == (RANK, ALPHA)


def test_kohya_names_of_sdxl() -> None:
    """SDXL has L = 2: down block 1 starts at 1 + 1 (2 + 1) = 4, its layer 1 is 5; up block 1, layer 2 is 3 + 2 = 5."""
    assert ldm_name("down_blocks.1.attentions.0.proj_in", 2) == "input_blocks.4.1.proj_in"
    assert ldm_name("down_blocks.1.resnets.1.conv1", 2) == "input_blocks.5.0.in_layers.2"
    assert ldm_name("mid_block.resnets.1.conv2", 2) == "middle_block.2.out_layers.3"
    assert ldm_name("mid_block.attentions.0.proj_out", 2) == "middle_block.1.proj_out"
    assert ldm_name("up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_k", 2) == (
        "output_blocks.5.1.transformer_blocks.0.attn2.to_k"
    )


@pytest.mark.parametrize("rename", [unet_name, lambda name: ldm_name(name, 2)])
@pytest.mark.parametrize("name", ["conv_in", "time_embedding.linear_1", "down_blocks.0.resnets.0.norm1"])
def test_kohya_unets_have_no_place_for_other_modules(rename: Callable[[str], str], name: str) -> None:
    with pytest.raises(InputError, match=f"kohya files have no place for {name}"):
        rename(name)


@pytest.mark.parametrize(("make", "cls"), [(flux, FluxPipeline), (chroma, ChromaPipeline)])
def test_kohya_flux_comes_back_through_diffusers(make: Callable[[], nn.Module], cls: Any) -> None:
    """At a small width: blocks of two streams, which diffusers reads at any width. Chroma's have no modulation."""
    torch.manual_seed(0)
    plain, denoiser = make(), make()
    denoiser.load_state_dict(plain.state_dict())
    parts = [part for part in FLUX_DOUBLE if make is flux or not part.startswith("norm1")]
    adapter = trained(denoiser, [f"transformer_blocks.{i}.{part}" for i in range(2) for part in parts])
    pipeline(cls, transformer=plain).load_lora_weights(kohya_flux(adapter))
    same(effective(plain), effective(denoiser))


FLUX_DOUBLE = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    *("attn.to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    *("norm1.linear", "norm1_context.linear"),
)


@pytest.mark.parametrize("modules", [("attn.to_q", "attn.to_v"), ("attn.to_k", "proj_mlp", "proj_out", "norm.linear")])
def test_kohya_flux_at_its_true_width(modules: tuple[str, ...]) -> None:
    """The single stream, whose four weights are one [3 width + 4 width, width] with width 3072.

    diffusers multiplies alpha / rank = 2 into A; a part that was not trained comes back as zero.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = {"proj_mlp": (12288, 3072), "proj_out": (3072, 15360), "norm.linear": (9216, 3072)}
    layers = {}
    for module in modules:
        rows, columns = shapes.get(module, (3072, 3072))
        name = f"single_transformer_blocks.7.{module}"
        down, up = torch.randn(RANK, columns, generator=generator), torch.randn(rows, RANK, generator=generator)
        layers[name] = Layer(down, up, SCALE)
    found = FluxPipeline.lora_state_dict(kohya_flux(Adapter(layers)))
    for name, (down, up, _) in layers.items():
        torch.testing.assert_close(found.pop(f"transformer.{name}.lora_A.weight"), 2 * down)
        torch.testing.assert_close(found.pop(f"transformer.{name}.lora_B.weight"), up)
    assert all(not rows.any() for rows in found.values())


def test_kohya_flux_fuses_by_hand() -> None:
    """Width 1, rank 1, alpha 3, q = 2 * 5 and v = 7 * 11: three parts, so rank 3 and alpha 9, scale 3 as before."""
    one = torch.ones(1, 1)
    layers = {"attn.to_q": Layer(2 * one, 5 * one, 3.0), "attn.to_v": Layer(7 * one, 11 * one, 3.0)}
    found = kohya_flux(Adapter({f"transformer_blocks.0.{name}": layer for name, layer in layers.items()}))
    key = "lora_unet_double_blocks_0_img_attn_qkv"
    assert found[f"{key}.lora_down.weight"].tolist() == [[2], [0], [7]]
    assert found[f"{key}.lora_up.weight"].tolist() == [[5, 0, 0], [0, 0, 0], [0, 0, 11]]
    assert found[f"{key}.alpha"].item() == 9
    assert len(found) == 3


@pytest.mark.parametrize("name", ["x_embedder", "proj_out", "single_transformer_blocks.0.attn.norm_q"])
def test_kohya_flux_has_no_place_for_other_modules(name: str) -> None:
    with pytest.raises(InputError, match=f"kohya files have no place for {name}"):
        kohya_flux(Adapter({name: Layer(torch.zeros(1, 1), torch.zeros(1, 1), 1.0)}))


@pytest.mark.parametrize(
    ("make", "cls"),
    [
        (sd3, StableDiffusion3Pipeline),
        (flux, FluxPipeline),
        (chroma, ChromaPipeline),
        (auraflow, AuraFlowPipeline),
    ],
)
def test_scaled_transformers_come_back_through_diffusers(make: Callable[[], nn.Module], cls: Any) -> None:
    """Without a header diffusers takes alpha = rank, as ComfyUI does: the scale must be in the matrices."""
    torch.manual_seed(0)
    plain, denoiser = make(), make()
    denoiser.load_state_dict(plain.state_dict())
    weights = scaled(trained(denoiser, JOINT), "transformer")
    pipeline(cls, transformer=plain).load_lora_weights(weights)
    same(effective(plain), effective(denoiser))


def test_half_a_lora_is_refused() -> None:
    rows = torch.zeros(1, 1)
    with pytest.raises(InputError, match=r"unet\.x\.lora_A\.weight: no lora_B"):
        read({"unet.x.lora_A.weight": rows}, "unet", CONFIG)
    with pytest.raises(InputError, match="3 weights make 1 pairs"):
        read(
            {f"unet.x.lora_{end}": rows for end in ("A.weight", "B.weight", "B.bias")},
            "unet",
            {"r": 1, "lora_alpha": 1},
        )
    with pytest.raises(InputError, match="'x': has rank 1, and its file's header says 4"):
        read({f"unet.x.lora_{end}.weight": rows for end in "AB"}, "unet", CONFIG)


def test_comfyui_finds_every_block_of_z_image_at_its_true_size() -> None:
    """30 blocks and twice 2 refiners, each with q, k, v, out, three weights of its MLP; 32 have a modulation.

    Query, key and value are thirds of one weight there: 30 heads of 128 each, so that all have 3840 rows.
    """
    parts = outlines.read("z-image")["parts"]
    with torch.device("meta"):
        network = ZImageTransformer2DModel.from_config(parts["transformer"])
    layers = {name: each for name, each in network.named_modules() if isinstance(each, nn.Linear)}
    found = [name for name in layers if re.fullmatch(TRANSFORMERS["ZImagePipeline"], name)]
    assert len(found) == 34 * 7 + 32
    assert {name.split(".")[0] for name in layers.keys() - set(found)} == {
        *("all_x_embedder", "all_final_layer", "t_embedder", "cap_embedder")
    }
    assert {layers[name].weight.shape for name in found if ".to_" in name} == {(3840, 3840)}


def test_every_block_of_lumina2_has_its_name_at_its_true_size() -> None:
    """26 blocks and twice 2 refiners, each with one weight of q, k, v, one of out, three of its MLP; 28 are modulated.

    diffusers' own reader of the original network brings each back: 2304 rows of q, and 768 of k and v, since 24 heads
    of queries share 8 of keys.
    """
    with torch.device("meta"):
        network = Lumina2Transformer2DModel.from_config(outlines.read("lumina2")["parts"]["transformer"])
    blocks = ("layers.", "noise_refiner.", "context_refiner.")
    linear = {f"{name}.weight": each for name, each in network.named_modules() if isinstance(each, nn.Linear)}
    inside = {name: each.weight for name, each in linear.items() if name.startswith(blocks)}
    original: dict[str, Any] = {}
    for name, weight in inside.items():
        target, part = lumina2_place(name.removesuffix(".weight"))
        original.setdefault(f"{target}.weight", []).append((part or 0, weight))
    assert len(original) == 30 * 5 + 28
    stacked = {
        name: torch.cat([rows for _, rows in sorted(parts, key=lambda each: each[0])])
        for name, parts in original.items()
    }
    back = convert_lumina2_to_diffusers(stacked)
    assert {name: rows.shape for name, rows in back.items()} == {name: rows.shape for name, rows in inside.items()}
    for name in linear.keys() - inside.keys():
        with pytest.raises(InputError, match="kohya files have no place for"):
            lumina2_place(name.removesuffix(".weight"))


def test_unequal_parts_by_hand() -> None:
    """Rows 2, 1, 1 and rank 1: k alone, 3 (7 * 5); its rows lie below those of q, which are zero like those of v."""
    layer = Layer(torch.tensor([[5.0]]), torch.tensor([[7.0]]), 3.0)
    found = kohya_lumina2(Adapter({"layers.0.attn.to_k": layer}), (2, 1, 1))
    key = "lora_unet_layers_0_attention_qkv"
    update = found[f"{key}.lora_up.weight"] @ found[f"{key}.lora_down.weight"] * found[f"{key}.alpha"] / 3
    assert update.tolist() == [[0], [0], [105], [0]]
