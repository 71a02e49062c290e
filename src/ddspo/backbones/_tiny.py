"""Parts of tiny pipelines: the real classes with random weights, and real tokenizers made on the spot."""

import json
from string import ascii_lowercase
from typing import Any, TypeVar

from diffusers import AutoencoderDC, AutoencoderKL, UNet2DConditionModel
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTokenizer,
    GemmaTokenizerFast,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2TokenizerFast,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

Config = TypeVar("Config", bound=PretrainedConfig)
WIDTH = 16
READS = 16
"""Tokens that the tiny CLIPs read."""


def clip_tokenizer() -> CLIPTokenizer:
    """One token a letter."""
    tokens = ["<|startoftext|>", "<|endoftext|>", *ascii_lowercase, *(f"{letter}</w>" for letter in ascii_lowercase)]
    return CLIPTokenizer({token: index for index, token in enumerate(tokens)}, [], model_max_length=READS)


def clip_config(**changes: Any) -> CLIPTextConfig:
    """Of a text encoder for `clip_tokenizer`."""
    return CLIPTextConfig(
        **{
            "vocab_size": 2 + 2 * len(ascii_lowercase),
            "hidden_size": WIDTH,
            "projection_dim": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": READS,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        }
        | changes
    )


def t5_tokenizer() -> T5TokenizerFast:
    """One token a letter, and one for the space before a word."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *ascii_lowercase]
    return T5TokenizerFast(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0)


def t5_encoder(width: int) -> T5EncoderModel:
    """A text encoder for `t5_tokenizer`."""
    config = T5Config(vocab_size=32, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval()  # as loading leaves it: its dropout would make conditions random


def gemma_tokenizer(text: str) -> GemmaTokenizerFast:
    """Byte pairs of one text, and all letters."""
    texts = [text, " ".join(ascii_lowercase)]
    return GemmaTokenizerFast().train_new_from_iterator(texts, vocab_size=500, show_progress=False)


FILLS = "<|endoftext|>"
GLM4 = ("[gMASK]", "<sop>")
MARKS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
CHAT = (
    "{% for each in messages %}<|im_start|>{{ each.role }}\n{{ each.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""Qwen3's template for conversations of plain text."""


def language_config(kind: type[Config], tokenizer: Any, **changes: Any) -> Config:
    """Of a model that reads what a tokenizer makes: Gemma, Qwen and their like."""
    options = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    return kind(**options | changes)


def qwen_tokenizer() -> Qwen2TokenizerFast:
    """One token a byte, and the marks of a conversation, with the template."""
    symbols = ["<|endoftext|>", *sorted(ByteLevel.alphabet())]
    tokenizer = Qwen2TokenizerFast({symbol: index for index, symbol in enumerate(symbols)}, [])
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
    tokenizer.chat_template = CHAT
    return tokenizer


def glm4_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, behind the two marks of GLM-4, and before them what fills a text up."""
    symbols = [FILLS, *GLM4, *sorted(ByteLevel.alphabet())]
    tokenizer = Tokenizer(BPE({symbol: index for index, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([FILLS, *GLM4])
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in GLM4]
    tokenizer.post_processor = TemplateProcessing(single=f"{' '.join(GLM4)} $A", special_tokens=marks)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=FILLS, padding_side="left")


MISTRAL_MARKS = ("<s>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]", "[IMG]")
MISTRAL_CHAT = (
    "{{ bos_token }}{% for each in messages %}{% set mark = 'SYSTEM_PROMPT' if each.role == 'system' else 'INST' %}"
    "[{{ mark }}]{{ each.content[0].text }}[/{{ mark }}]{% endfor %}"
)
"""Mistral's template for conversations of plain text."""


def mistral_processor(text: str) -> ProcessorMixin:
    """Byte pairs of one text, a token for each other byte, and a template; it fills up on the left.

    Pixtral's processor needs torchvision. This one reads text as that one does.
    """
    from transformers import CLIPImageProcessor, LlavaProcessor  # which says a line where torchvision is missing

    marks = list(MISTRAL_MARKS)
    trained = qwen_tokenizer().train_new_from_iterator([text] * 2, 500, show_progress=False)
    pairs = json.loads(trained.backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in pairs["merges"]]
    tokenizer = Qwen2TokenizerFast(pairs["vocab"], merges, bos_token=marks[0], padding_side="left")
    tokenizer.add_special_tokens({"additional_special_tokens": marks[1:]})
    eyes = {"patch_size": 16, "vision_feature_select_strategy": "full", "image_token": MISTRAL_MARKS[-1]}
    return LlavaProcessor(CLIPImageProcessor(), tokenizer, **eyes, chat_template=MISTRAL_CHAT)


def unet(**changes: Any) -> UNet2DConditionModel:
    """8 x 8 latents of 4 channels."""
    return UNet2DConditionModel(
        **{
            "sample_size": 8,
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": WIDTH,
            "attention_head_dim": 2,
            "norm_num_groups": 8,
        }
        | changes
    )


def autoencoder(**changes: Any) -> AutoencoderKL:
    """Two pixels a side for each latent of 4 channels."""
    return AutoencoderKL(
        **{
            "block_out_channels": (8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "latent_channels": 4,
            "norm_num_groups": 4,
        }
        | changes
    )


def deep_pixels(**changes: Any) -> AutoencoderKL:
    """As `autoencoder`, but with eight pixels a side, for pipelines that know no other number."""
    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    return autoencoder(block_out_channels=(8,) * 4, down_block_types=down, up_block_types=up, **changes)


def deep_autoencoder() -> AutoencoderDC:
    """Four pixels a side for each latent of 4 channels."""
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        scaling_factor=0.41407,
    )
