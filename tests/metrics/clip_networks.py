"""Tiny CLIPs: transformers' own with random weights, and one as open_clip builds it, to compare with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

WIDTH, SIDE, PATCH, POSITIONS = 16, 12, 4, 77
TOKENS = [*ascii_lowercase, *(f"{letter}</w>" for letter in ascii_lowercase), "<|startoftext|>", "<|endoftext|>"]
START, END = len(TOKENS) - 2, len(TOKENS) - 1
PROMPTS = ["a cat", "two red dogs", "b"]
LONG = " ".join(ascii_lowercase * 4)
"""Of 104 words of one letter, hence of as many tokens."""


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """x sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"gelu": gelu, "quick_gelu": quick_gelu}


def tokens_of(prompt: str) -> list[int]:
    """One token a letter, the last of a word marked; at most 77, the end token the last of them."""
    found = [TOKENS.index(letter) for word in prompt.split() for letter in [*word[:-1], f"{word[-1]}</w>"]]
    return [START, *found[: POSITIONS - 2], END]


def config(activation: str | None = None) -> CLIPConfig:
    """Of two layers in either tower; without an activation, transformers' default."""
    chosen = {"hidden_act": activation} if activation else {}
    shared = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 4 * WIDTH, **chosen}
    special = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": END}
    text = {"hidden_size": WIDTH, "vocab_size": len(TOKENS), "max_position_embeddings": POSITIONS}
    vision = {"hidden_size": 2 * WIDTH, "image_size": SIDE, "patch_size": PATCH}
    return CLIPConfig(
        text_config={**shared, **special, **text}, vision_config={**shared, **vision}, projection_dim=WIDTH
    )


def network(activation: str | None = None, seed: int = 0) -> CLIPModel:
    """With weights so large that every part of it matters."""
    made = CLIPModel(config(activation)).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in made.parameters():
            each.copy_(0.3 * torch.randn(each.shape, generator=random) + (each.mean() > 0.9))
        made.logit_scale.fill_(1.1)
    return made


def tokenizer() -> CLIPTokenizer:
    """One token a letter; it has no greatest length of its own, as that of PickScore has none."""
    return CLIPTokenizer({token: index for index, token in enumerate(TOKENS)}, [])


def saved(made: CLIPModel, folder: Path) -> Path:
    """A folder of a network and the tokenizer."""
    made.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def photographs() -> list[np.ndarray]:
    """Of three sizes, two of which are not square; of the first, 1.5 pixels are cut off on either side."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((20, 25), (30, 12), (12, 12))]


class OpenClip:
    """open_clip's CLIP written down from its state dict, with torch's own attention over fused projections."""

    def __init__(self, weights: dict[str, torch.Tensor], activation: str) -> None:
        self.weights, self.activation = weights, ACTIVATIONS[activation]

    def image(self, pixels: torch.Tensor) -> torch.Tensor:
        """The vector of an image [3, side, side]."""
        w = self.weights
        grid = nn.functional.conv2d(pixels[None], w["visual.conv1.weight"], stride=PATCH)[0].flatten(1).T
        x = torch.cat([w["visual.class_embedding"][None], grid]) + w["visual.positional_embedding"]
        x = self._norm(x, "visual.ln_pre")
        x = self._blocks(x, "visual.transformer.resblocks.", None)
        return self._norm(x[0], "visual.ln_post") @ w["visual.proj"]

    def text(self, tokens: Sequence[int]) -> torch.Tensor:
        """The vector of a text, read at its end token."""
        w = self.weights
        x = w["token_embedding.weight"][list(tokens)] + w["positional_embedding"][: len(tokens)]
        causal = torch.full((len(tokens),) * 2, -torch.inf).triu(1)
        x = self._norm(self._blocks(x, "transformer.resblocks.", causal), "ln_final")
        return x[list(tokens).index(END)] @ w["text_projection"]

    def cosine(self, pixels: torch.Tensor, prompt: str) -> float:
        """cos(image, prompt)."""
        return float(torch.cosine_similarity(self.image(pixels), self.text(tokens_of(prompt)), dim=0))

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _blocks(self, x: torch.Tensor, start: str, mask: torch.Tensor | None) -> torch.Tensor:
        for number in range(2):
            each = f"{start}{number}."
            part = {name.removeprefix(each): value for name, value in self.weights.items() if name.startswith(each)}
            attention = nn.MultiheadAttention(x.shape[-1], 2)
            attention.load_state_dict({n.removeprefix("attn."): v for n, v in part.items() if n.startswith("attn.")})
            y = self._norm(x, f"{each}ln_1")
            x = x + attention(y, y, y, attn_mask=mask, need_weights=False)[0]
            y = self._norm(x, f"{each}ln_2") @ part["mlp.c_fc.weight"].T + part["mlp.c_fc.bias"]
            x = x + self.activation(y) @ part["mlp.c_proj.weight"].T + part["mlp.c_proj.bias"]
        return x


def open_clip_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict with the names and shapes that open_clip gives a ViT of the tiny sizes."""
    shapes: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "positional_embedding": (POSITIONS, WIDTH),
        "token_embedding.weight": (len(TOKENS), WIDTH),
        "text_projection": (WIDTH, WIDTH),
        "visual.class_embedding": (2 * WIDTH,),
        "visual.positional_embedding": ((SIDE // PATCH) ** 2 + 1, 2 * WIDTH),
        "visual.conv1.weight": (2 * WIDTH, 3, PATCH, PATCH),
        "visual.proj": (2 * WIDTH, WIDTH),
    }
    norms = [("ln_final", WIDTH), ("visual.ln_pre", 2 * WIDTH), ("visual.ln_post", 2 * WIDTH)]
    for start, width in (("transformer.", WIDTH), ("visual.transformer.", 2 * WIDTH)):
        for number in range(2):
            each = f"{start}resblocks.{number}."
            norms += [(f"{each}ln_1", width), (f"{each}ln_2", width)]
            for name, rows, columns in (
                ("attn.in_proj_", 3 * width, width),
                ("attn.out_proj.", width, width),
                ("mlp.c_fc.", 4 * WIDTH, width),
                ("mlp.c_proj.", width, 4 * WIDTH),
            ):
                shapes |= {f"{each}{name}weight": (rows, columns), f"{each}{name}bias": (rows,)}
    shapes |= {f"{name}.{kind}": (width,) for name, width in norms for kind in ("weight", "bias")}
    random = torch.Generator().manual_seed(seed)
    found = {name: 0.3 * torch.randn(shape, generator=random) for name, shape in shapes.items()}
    for name, each in found.items():
        each += "ln_" in name and name.endswith("weight")
    return found


def to_open_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of transformers' CLIPModel under open_clip's names."""
    made = {
        "logit_scale": state["logit_scale"],
        "text_projection": state["text_projection.weight"].T,
        "visual.proj": state["visual_projection.weight"].T,
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
    }
    names = [("ln_final", "text_model.final_layer_norm"), ("visual.ln_pre", "vision_model.pre_layrnorm")]
    names += [("visual.ln_post", "vision_model.post_layernorm")]
    for new, old in (("transformer.resblocks.", "text_model."), ("visual.transformer.resblocks.", "vision_model.")):
        for number in range(2):
            a, b = f"{new}{number}.", f"{old}encoder.layers.{number}."
            names += [(f"{a}ln_1", f"{b}layer_norm1"), (f"{a}ln_2", f"{b}layer_norm2")]
            names += [(f"{a}mlp.c_fc", f"{b}mlp.fc1"), (f"{a}mlp.c_proj", f"{b}mlp.fc2")]
            names += [(f"{a}attn.out_proj", f"{b}self_attn.out_proj")]
            for kind in ("weight", "bias"):
                parts = [state[f"{b}self_attn.{part}_proj.{kind}"] for part in "qkv"]
                made[f"{a}attn.in_proj_{kind}"] = torch.cat(parts)
    return made | {f"{a}.{kind}": state[f"{b}.{kind}"] for a, b in names for kind in ("weight", "bias")}


def scores_of(metric: Any, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[float]:
    """What a metric gives, on the CPU."""
    with metric.open(torch.device("cpu")) as judge:
        return [each.value for each in judge(images, [{"prompt": prompt} for prompt in prompts])]
