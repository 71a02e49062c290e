"""Pipelines written as one file with the names of the original code: the inverse of what diffusers' loader does."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "fc1": "c_fc",
    "fc2": "c_proj",
    "self_attn": "attn",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}

SD3 = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "transformer_blocks": "joint_blocks",
    "attn.add_q_proj": "context_block.attn.qkv#0",
    "attn.add_k_proj": "context_block.attn.qkv#1",
    "attn.add_v_proj": "context_block.attn.qkv#2",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn.to_add_out": "context_block.attn.proj",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    **{
        f"{each}.to_{letter}.": f"x_block.{each}.qkv#{i}."
        for each in ("attn", "attn2")
        for i, letter in enumerate("qkv")
    },
    **{f"{each}.norm_{letter}": f"x_block.{each}.ln_{letter}" for each in ("attn", "attn2") for letter in "qk"},
    **{f"{each}.to_out.0": f"x_block.{each}.proj" for each in ("attn", "attn2")},
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
FLUX = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "norm1_context.linear": "txt_mod.lin",
    "norm1.linear": "img_mod.lin",
    "attn.add_q_proj": "txt_attn.qkv#0",
    "attn.add_k_proj": "txt_attn.qkv#1",
    "attn.add_v_proj": "txt_attn.qkv#2",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "attn.to_add_out": "txt_attn.proj",
    "ff_context.net.": "txt_mlp.",
    "ff.net.": "img_mlp.",
    "mlp.0.proj": "mlp.0",
    "attn.to_q": "img_attn.qkv#0",
    "attn.to_k": "img_attn.qkv#1",
    "attn.to_v": "img_attn.qkv#2",
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
    "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.to_out.0": "img_attn.proj",
}
FLUX_SINGLE = {
    "single_transformer_blocks": "single_blocks",
    "norm.linear": "modulation.lin",
    "attn.to_q": "linear1#0",
    "attn.to_k": "linear1#1",
    "attn.to_v": "linear1#2",
    "proj_mlp": "linear1#3",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
    "proj_out": "linear2",
}
OUTSIDE = {
    "transformer_blocks": "double_blocks",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}


def unet(weights: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Blocks are counted through: every resnet, with its attention, and every change of size is one."""
    attended = {match[1] for name in weights if (match := re.match(r"up_blocks\.(\d+)\.attentions", name))}

    def place(name: str) -> str:
        for old, new in ENDS.items():
            if name.startswith(f"{old}."):
                return name.replace(old, new, 1)
        side, block, kind, index, rest = re.fullmatch(
            r"(down|up|mid)_block(?:s\.(\d+))?\.(\w+)\.(\d+)\.(.*)", name
        ).groups()
        if kind == "resnets":
            old = next(each for each in RESNET if rest.startswith(f"{each}."))
            rest = rest.replace(old, RESNET[old], 1)
        within = "0" if kind == "resnets" else "1"
        if side == "mid":
            return f"middle_block.{2 * int(index) if kind == 'resnets' else 1}.{rest}"
        number = int(block) * (layers + 1) + int(index)
        if kind == "downsamplers":
            return f"input_blocks.{(int(block) + 1) * (layers + 1)}.0.{rest.replace('conv', 'op')}"
        if kind == "upsamplers":
            return f"output_blocks.{number + layers}.{2 if block in attended else 1}.{rest}"
        return f"{'input' if side == 'down' else 'output'}_blocks.{number + (side == 'down')}.{within}.{rest}"

    return {f"model.diffusion_model.{place(name)}": value for name, value in weights.items()}


def vae(weights: Mapping[str, Tensor], prefix: str = "first_stage_model.") -> dict[str, Tensor]:
    """Upwards, blocks are counted from the other end; attention is a convolution of one pixel."""
    blocks = 1 + max(int(match[1]) for name in weights if (match := re.search(r"up_blocks\.(\d+)", name)))
    named = {}
    for name, value in weights.items():
        new = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{blocks - 1 - int(match[1])}", name)
        new = re.sub(r"down_blocks\.(\d+)", r"down.\1", new)
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", new)
        new = re.sub(r"(down|up)samplers\.0", r"\1sample", new.replace(".resnets.", ".block."))
        new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "mid_block.attentions.0" in new:
            new = new.replace("mid_block.attentions.0", "mid.attn_1")
            for old, kind in ATTENTION.items():
                new = new.replace(f"attn_1.{old}.", f"attn_1.{kind}.")
            value = value[:, :, None, None] if value.dim() == 2 else value
        named[prefix + new] = value
    return named


def clip(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """As transformers had them when its model had one more layer of names."""
    return {f"{prefix}text_model.{name.removeprefix('text_model.')}": value for name, value in weights.items()}


def open_clip(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Queries, keys and values are one matrix, and the projection is the other way round."""
    named: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        new = name.removeprefix("text_model.")
        for old, kind in OPEN_CLIP.items():
            new = new.replace(old, kind)
        together = re.fullmatch(r"(.*\.attn)\.([qkv])_proj\.(weight|bias)", new)
        if new == "text_projection.weight":
            named["text_projection"] = value.T
        elif together:
            parts.setdefault(f"{together[1]}.in_proj_{together[3]}", {})[together[2]] = value
        else:
            named[new] = value
    named |= {name: torch.cat([each[letter] for letter in "qkv"]) for name, each in parts.items()}
    return {prefix + name: value for name, value in named.items()}


def sd(pipeline: Any) -> dict[str, Tensor]:
    """Stable Diffusion 1.x."""
    return (
        unet(pipeline.unet.state_dict(), pipeline.unet.config.layers_per_block)
        | vae(pipeline.vae.state_dict())
        | clip(pipeline.text_encoder.state_dict(), "cond_stage_model.transformer.")
    )


def sdxl(pipeline: Any) -> dict[str, Tensor]:
    """SDXL."""
    return (
        unet(pipeline.unet.state_dict(), pipeline.unet.config.layers_per_block)
        | vae(pipeline.vae.state_dict())
        | clip(pipeline.text_encoder.state_dict(), "conditioner.embedders.0.transformer.")
        | open_clip(pipeline.text_encoder_2.state_dict(), "conditioner.embedders.1.model.")
    )


def write(path: Path, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Path:
    """One file."""
    save_file({name: value.to(dtype).contiguous() for name, value in weights.items()}, path)
    return path


def transformer(weights: Mapping[str, Tensor], *, flux: bool) -> dict[str, Tensor]:
    """What is one matrix in the original is `NAME#PLACE` until it is put together; shift comes before scale there."""
    last = max(int(match[1]) for name in weights if (match := re.match(r"transformer_blocks\.(\d+)", name)))
    swapped = {"norm_out.linear"} | (set() if flux else {f"transformer_blocks.{last}.norm1_context.linear"})
    named: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        single = name.startswith("single_")
        new = name
        for old, kind in (FLUX_SINGLE if single else FLUX | OUTSIDE if flux else SD3).items():
            new = new.replace(old, kind)
        if name.rpartition(".")[0] in swapped:
            scale, shift = value.chunk(2)
            value = torch.cat([shift, scale])
        together = re.fullmatch(r"(.*)#(\d)(\.\w+)", new)
        if together:
            parts.setdefault(together[1] + together[3], {})[together[2]] = value
        else:
            named[new] = value
    return named | {name: torch.cat([each[place] for place in sorted(each)]) for name, each in parts.items()}


def sd3(pipeline: Any) -> dict[str, Tensor]:
    """SD3 and SD3.5 with their text encoders."""
    whole = {f"model.diffusion_model.{key}": value for key, value in _transformer(pipeline, flux=False).items()}
    whole |= vae(pipeline.vae.state_dict())
    for part, name in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        prefix, weights = f"text_encoders.{name}.transformer.", dict(getattr(pipeline, part).state_dict())
        projection = weights.pop("text_projection.weight")
        whole |= clip(weights, prefix)
        if name == "clip_g":
            whole[f"{prefix}text_projection.weight"] = projection
    t5 = dict(pipeline.text_encoder_3.state_dict())
    del t5["encoder.embed_tokens.weight"]  # another name of shared.weight
    return whole | {f"text_encoders.t5xxl.transformer.{name}": value for name, value in t5.items()}


def flux(pipeline: Any) -> dict[str, Tensor]:
    """The transformer of FLUX.1 alone, as it is mostly passed on."""
    return _transformer(pipeline, flux=True)


def _transformer(pipeline: Any, *, flux: bool) -> dict[str, Tensor]:
    return transformer(pipeline.transformer.state_dict(), flux=flux)


def write_header(path: Path, weights: Mapping[str, Tensor]) -> Path:
    """A file of the true size that holds no byte of weights: its header says where each would be."""
    entries, end = {}, 0
    for name, value in weights.items():
        entries[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [end, end + 2 * value.numel()]}
        end += 2 * value.numel()
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    return path


STACKED = {
    **{f"attention.to_{letter}.": f"attention.qkv#{place}." for place, letter in enumerate("qkv")},
    **{f"attn.to_{letter}.": f"attn.qkv#{place}." for place, letter in enumerate("qkv")},
    **{f"attn.add_{letter}_proj.": f"txt_attn.qkv#{place}." for place, letter in enumerate("qkv")},
}
"""Query, key and value, of which the originals have one matrix."""
Z_IMAGE = {
    "all_final_layer.2-1.": "final_layer.",
    "all_x_embedder.2-1.": "x_embedder.",
    "attention.to_out.0.": "attention.out.",
    "attention.norm_k.": "attention.k_norm.",
    "attention.norm_q.": "attention.q_norm.",
}
LUMINA2 = {
    "time_caption_embed.caption_embedder": "cap_embedder",
    "time_caption_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_caption_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "norm_out.linear_1": "final_layer.adaLN_modulation.1",
    "norm_out.linear_2": "final_layer.linear",
    "attn.qkv": "attention.qkv",
    "attn.to_out.0": "attention.out",
    "attn.norm_q": "attention.q_norm",
    "attn.norm_k": "attention.k_norm",
    "feed_forward.linear_": "feed_forward.w",
    "norm1.linear": "adaLN_modulation.1",
    "norm1.norm": "attention_norm1",
    ".norm1.": ".attention_norm1.",
    ".norm2.": ".attention_norm2.",
}
FLUX2 = {
    "single_transformer_blocks": "single_blocks",
    "transformer_blocks": "double_blocks",
    "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "modulation_img.linear": "modulation_img.lin",
    "modulation_txt.linear": "modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "attn.to_add_out": "txt_attn.proj",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    ".attn.to_qkv_mlp_proj": ".linear1",
}
FLUX2_PLACES = {  # by the kind of block that a name is in
    "double": {".attn.qkv": ".img_attn.qkv", ".attn.to_out.0": ".img_attn.proj", ".attn.norm": ".img_attn.norm"},
    "single": {".attn.to_out": ".linear2", ".attn.norm": ".norm"},
}


def _renamed(weights: Mapping[str, Tensor], rules: Mapping[str, str]) -> dict[str, Tensor]:
    """By all rules, in order; what is one matrix in the original is put together."""
    named: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        for old, new in (STACKED | dict(rules)).items():
            name = name.replace(old, new)
        together = re.fullmatch(r"(.*)#(\d)(\.\w+)", name)
        if together:
            parts.setdefault(together[1] + together[3], {})[together[2]] = value
        else:
            named[name] = value
    return named | {name: torch.cat([each[place] for place in sorted(each)]) for name, each in parts.items()}


def _as_comfyui(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"model.diffusion_model.{name}": value for name, value in weights.items()}


def z_image(pipeline: Any) -> dict[str, Tensor]:
    """Its transformer, with a weight that nothing uses."""
    named = _renamed(pipeline.transformer.state_dict(), Z_IMAGE)
    return _as_comfyui(named | {"norm_final.weight": torch.ones(1, device=next(iter(named.values())).device)})


def lumina2(pipeline: Any) -> dict[str, Tensor]:
    """Its transformer."""
    return _as_comfyui(_renamed(pipeline.transformer.state_dict(), LUMINA2))


def qwen_image(pipeline: Any) -> dict[str, Tensor]:
    """Its transformer, in diffusers' own names."""
    return _as_comfyui(pipeline.transformer.state_dict())


def flux2(pipeline: Any) -> dict[str, Tensor]:
    """Its transformer; shift comes before scale there."""
    weights = dict(pipeline.transformer.state_dict())
    scale, shift = weights["norm_out.linear.weight"].chunk(2)
    weights["norm_out.linear.weight"] = torch.cat([shift, scale])
    named = _renamed({name: value for name, value in weights.items() if name != "proj_out.weight"}, FLUX2)
    for kind, places in FLUX2_PLACES.items():
        for old, new in places.items():
            named = {name.replace(old, new) if name.startswith(kind) else name: value for name, value in named.items()}
    ends = {"norm_q.weight": "norm.query_norm.scale", "norm_k.weight": "norm.key_norm.scale"}
    for old, new in ends.items():
        named = {re.sub(rf"\.{old}$", f".{new}", name): value for name, value in named.items()}
    return _as_comfyui(named | {"final_layer.linear.weight": weights["proj_out.weight"]})


def chroma(pipeline: Any) -> dict[str, Tensor]:
    """Its transformer, named like FLUX.1's but for what stands in for the modulation."""
    weights = dict(pipeline.transformer.state_dict())
    guidance = {name: weights.pop(name) for name in list(weights) if name.startswith("distilled_guidance_layer.")}
    names = {"linear_1": "in_layer", "linear_2": "out_layer"}
    return transformer(weights, flux=True) | {
        re.sub(r"(norms\.\d+)\.weight", r"\1.scale", re.sub("linear_[12]", lambda each: names[each[0]], name)): value
        for name, value in guidance.items()
    }
