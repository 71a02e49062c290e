"""ChatGLM3 at tiny size: the real classes, and a vocabulary of sentencepiece made on the spot."""

import atexit
import io
import shutil
import tempfile
from functools import cache
from pathlib import Path
from string import ascii_lowercase

from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig
from sentencepiece import SentencePieceTrainer
from torch import nn

from ddspo.backbones._tiny import WIDTH


@cache
def _letters() -> str:
    """Path of a file of sentencepiece that knows the letters, for as long as this process lives."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(ascii_lowercase)]),
        model_writer=model,
        model_type="char",
        vocab_size=3 + 1 + len(ascii_lowercase),
        normalization_rule_name="identity",
        minloglevel=9,
    )
    folder = tempfile.mkdtemp(prefix="ddspo-tiny-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder, "tokenizer.model")
    path.write_bytes(model.getvalue())
    return str(path)


def tokenizer() -> ChatGLMTokenizer:
    """One token a letter, and one for the space before a word."""
    return ChatGLMTokenizer(_letters())


def encoder(reads: int) -> ChatGLMModel:
    """A text encoder for `tokenizer` and so many tokens."""
    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=64,
        hidden_size=WIDTH,
        ffn_hidden_size=2 * WIDTH,
        kv_channels=8,
        num_attention_heads=2,
        multi_query_attention=True,
        seq_length=reads,
        add_qkv_bias=True,
        original_rope=True,
    )
    model = ChatGLMModel(config, empty_init=False)
    for name, weight in model.named_parameters():
        if "layernorm" in name:
            nn.init.ones_(weight)  # which the class leaves as the memory was
    return model.eval()
