"""What each text encoder of a pipeline reads of a prompt, and which words it never sees."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


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
    """

    encoder: str
    tokenizer: Any
    limit: int
    prefix: str = ""
    lower: bool = False

    def cuts(self, prompts: Sequence[str]) -> list[Cut]:
        """The prompts that lose their end."""
        lengths = self._lengths(prompts) if prompts else []
        long = [prompt for prompt, length in zip(prompts, lengths, strict=True) if length > self.limit]
        return [Cut(prompt, self.encoder, self._lost(prompt)) for prompt in long]

    def _lost(self, prompt: str) -> str:
        """The words after the longest beginning that fits."""
        words = prompt.split()
        beginnings = [" ".join(words[:count]) for count in range(1, len(words) + 1)]
        fitting = bisect_right(beginnings, self.limit, key=lambda beginning: self._lengths([beginning])[0])
        return " ".join(words[fitting:])

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        read = [self.prefix + (text.lower().strip() if self.lower else text) for text in texts]
        return [len(tokens) for tokens in self.tokenizer(read, verbose=False).input_ids]
