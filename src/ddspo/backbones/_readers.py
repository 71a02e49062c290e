"""What each text encoder of a pipeline reads of a prompt, and which words it never sees."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

PROMPT = "(here)"
"""What stands for a prompt in a conversation, and in no template."""


FEW = 8
"""Texts that are read together by a language model of billions of weights, whose activations are as large."""


def few(prompts: Sequence[str]) -> Iterator[list[str]]:
    """Prompts in parts that such a model reads at once."""
    return (list(prompts[first : first + FEW]) for first in range(0, len(prompts), FEW))


class Cut(NamedTuple):
    """A prompt that loses its end in one text encoder: the words of it that are not, or not wholly, read."""

    prompt: str
    encoder: str
    words: str


@dataclass(frozen=True)
class Reader:
    """One text encoder.

    Attributes:
        encoder: Its name in the pipeline, and its class.
        tokenizer: Its tokenizer.
        limit: Tokens that it reads, special ones included.
        prefix: What the pipeline writes before every prompt.
        lower: Whether the pipeline makes prompts lower case first.
        special: Whether the tokenizer puts its own special tokens around, because the prefix has not got them.
    """

    encoder: str
    tokenizer: Any
    limit: int
    prefix: str = ""
    lower: bool = False
    special: bool = True

    def cuts(self, prompts: Sequence[str]) -> list[Cut]:
        """The prompts that lose their end."""
        lengths = self._lengths(prompts) if prompts else []
        long = [prompt for prompt, length in zip(prompts, lengths, strict=True) if length > self.limit]
        return [Cut(prompt, self.encoder, self._lost(prompt)) for prompt in long]

    def unknown(self, prompts: Sequence[str]) -> tuple[int, list[str]]:
        """How many words there are, and those that the tokenizer does not know, as often as they come."""
        words = [word for prompt in prompts for word in self._read(prompt).split()]
        each = list(dict.fromkeys(words))
        tokens = self.tokenizer(each, add_special_tokens=False, verbose=False).input_ids if each else []
        strange = self.tokenizer.unk_token_id
        lost = {word for word, ids in zip(each, tokens, strict=True) if not ids or strange in ids}
        return len(words), [word for word in words if word in lost]

    def alike(self, prompt: str, texts: Sequence[str]) -> list[bool]:
        """Which of some texts are read as the prompt is: they differ beyond the last token that is read, if at all."""
        read = [self.prefix + self._read(text) for text in (prompt, *texts)]
        cut = {"truncation": True, "max_length": self.limit, "add_special_tokens": self.special}
        tokens = self.tokenizer(read, **cut, verbose=False).input_ids
        return [each == tokens[0] for each in tokens[1:]]

    def _lost(self, prompt: str) -> str:
        """The words after the longest beginning that fits."""
        words = prompt.split()
        beginnings = [" ".join(words[:count]) for count in range(1, len(words) + 1)]
        fitting = bisect_right(beginnings, self.limit, key=lambda beginning: self._lengths([beginning])[0])
        return " ".join(words[fitting:])

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        read = [self.prefix + self._read(text) for text in texts]
        found = self.tokenizer(read, add_special_tokens=self.special, verbose=False).input_ids
        return [len(tokens) for tokens in found]

    def _read(self, text: str) -> str:
        return text.lower().strip() if self.lower else text


def read_alike(readers: Sequence[Reader], prompt: str, texts: Sequence[str]) -> list[bool]:
    """Which of some texts no reader tells from the prompt."""
    every = [reader.alike(prompt, texts) for reader in readers]
    return [bool(every) and all(each[place] for each in every) for place in range(len(texts))]


def tokenizer_of(part: Any) -> Any:
    """The tokenizer that a part of a pipeline is, or that a processor of texts and images has inside."""
    from transformers import ProcessorMixin

    return part.tokenizer if isinstance(part, ProcessorMixin) else part


def before_prompt(tokenizer: Any, **options: Any) -> str:
    """What the chat template of a tokenizer writes before a prompt, told `options`."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], tokenize=False, add_generation_prompt=True, **options
    )
    return str(text).partition(PROMPT)[0]


def readers_of(pipeline: Any, max_length: int | None, *, lower: bool = False) -> list[Reader]:
    """The text encoders that a pipeline has.

    Args:
        pipeline: The pipeline.
        max_length: Tokens that a text encoder other than CLIP reads.
        lower: Whether the pipeline makes prompts lower case first.
    """
    from transformers import CLIPTokenizer

    parts, found = pipeline.components, []
    for name in sorted(name for name in parts if name.startswith("text_encoder") and parts[name] is not None):
        tokenizer = tokenizer_of(parts[name.replace("text_encoder", "tokenizer")])
        limit = tokenizer.model_max_length if isinstance(tokenizer, CLIPTokenizer) else max_length
        found.append(Reader(f"{name} ({type(parts[name]).__name__})", tokenizer, int(limit or 0), lower=lower))
    return found
