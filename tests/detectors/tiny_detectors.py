"""Tiny networks of the real classes, as folders: what detectors load."""

from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertTokenizerFast,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Owlv2Config,
    Owlv2ForObjectDetection,
    SwinConfig,
)

from ddspo.backbones._tiny import clip_config

CPU = torch.device("cpu")
READS = 77


def tokenizer() -> CLIPTokenizer:
    """One token a letter or hyphen, 77 of them."""
    letters = [*ascii_lowercase, "-"]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer({token: index for index, token in enumerate(tokens)}, [], model_max_length=READS)


def save_clip(folder: Path, seed: int = 2) -> CLIPModel:
    """A CLIP that reads 32 pixels a side."""
    torch.manual_seed(seed)
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = clip_config(max_position_embeddings=READS, vocab_size=56).to_dict()
    config = CLIPConfig(
        text_config=text, vision_config=vision | {"image_size": 32, "patch_size": 8}, projection_dim=16
    )
    model = CLIPModel(config).eval()
    for parameter in model.parameters():  # or all directions are much alike
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model


def mask2former_config(**changes: Any) -> Mask2FormerConfig:
    swin = SwinConfig(
        embed_dim=8,
        depths=(2, 1, 2, 1),
        num_heads=(1, 2, 2, 4),
        window_size=3,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    options = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 24}
    options |= {"dim_feedforward": 40, "encoder_layers": 2, "decoder_layers": 4, "num_attention_heads": 2}
    return Mask2FormerConfig(backbone_config=swin, **options | {"num_queries": 7, "num_labels": 80} | changes)


def mask2former(**changes: Any) -> Mask2FormerForUniversalSegmentation:
    torch.manual_seed(1)
    model = Mask2FormerForUniversalSegmentation(mask2former_config(**changes)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
        else:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.2)
    return model


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def owlv2_tokenizer() -> CLIPTokenizer:
    """The same with a filler as its first token, which the network takes for none."""
    letters = [*ascii_lowercase, "-"]
    tokens = ["!", "<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocabulary, [], pad_token="!", model_max_length=READS)


def save_owlv2(folder: Path) -> None:
    """An OWLv2 that reads 64 pixels a side."""
    torch.manual_seed(2)
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = vision | {"max_position_embeddings": READS, "vocab_size": 57}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision |= {"image_size": 64, "patch_size": 16}
    model = Owlv2ForObjectDetection(Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)).eval()
    spread(model)
    model.save_pretrained(folder)
    owlv2_tokenizer().save_pretrained(folder)


def save_grounding_dino(folder: Path) -> None:
    """A Grounding DINO of 20 queries, with BERT's own places for the marks that end phrases, and a token a letter."""
    torch.manual_seed(3)
    swin = SwinConfig(
        embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), window_size=3, out_features=["stage2", "stage3"]
    )
    bert = BertConfig(
        vocab_size=1100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    layers = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_feature_levels": 3}
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=bert, d_model=32, num_queries=20, max_text_len=64, **layers, **heads
    )
    model = GroundingDinoForObjectDetection(config).eval()
    spread(model)
    model.save_pretrained(folder)
    marks = {101: "[CLS]", 102: "[SEP]", 1012: ".", 1029: "?", 0: "[PAD]", 100: "[UNK]"}
    letters = [*ascii_lowercase, *(f"##{letter}" for letter in ascii_lowercase)]
    rest = iter([*letters, *(f"[unused{n}]" for n in range(1100))])
    words = [marks.get(index) or next(rest) for index in range(1100)]
    BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)


def spread(model: torch.nn.Module) -> None:
    """Larger weights than those of training's start, or all answers are much alike."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
