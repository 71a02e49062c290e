"""Answers from a language model on this machine, through transformers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)

from ddspo.degradations._chat import Ask, Engine, Reply, Sampling
from ddspo.digests import file_identity
from ddspo.errors import InputError
from ddspo.hub import snapshot
from ddspo.places import local


@dataclass(frozen=True)
class LocalChat(Engine):
    """A causal language model with a chat template, read when the first question comes.

    Attributes:
        model: A folder or a hub id.
        revision: Of a hub id.
        sampling: How it writes, and how many answers in a batch.
    """

    model: str
    revision: str | None
    sampling: Sampling

    @property
    def identity(self) -> str:
        """The hub's commit, or a digest of a folder's files."""
        return f"{self.model}@{self._state}"

    def check(self) -> None:
        """Configuration and tokenizer, without weights."""
        config = self._read(AutoConfig)
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise InputError(f"{self._where}: {type(config).__name__} writes no text: give an instruction model")
        if not self._tokenizer.chat_template:
            raise InputError(f"{self._where}: no chat template: give a model that was tuned to follow instructions")

    def replies(self, asks: Sequence[Ask]) -> Iterator[Reply]:
        """Batch by batch; an answer depends on its own seed, up to rounding, and not on its batch."""
        for first in range(0, len(asks), self.sampling.at_once):
            texts = self._write(asks[first : first + self.sampling.at_once])
            yield from (Reply(first + index, text, written=True) for index, text in enumerate(texts))

    @torch.inference_mode()
    def _write(self, asks: Sequence[Ask]) -> list[str]:
        read = self._tokenizer.apply_chat_template(
            [[{"role": "user", "content": ask.text}] for ask in asks],
            add_generation_prompt=True,
            sanitize_control_tokens=True,  # a prompt must not end its own message
            enable_thinking=False,  # known to the templates of models that would think aloud first
            padding=True,
            return_tensors="pt",
            return_dict=True,
        ).to(self._network.device)
        width = read["input_ids"].shape[1]
        sampler = _Quantiles([ask.seed for ask in asks], self.sampling.temperature, self.sampling.max_tokens, width)
        written = self._network.generate(
            input_ids=read["input_ids"],
            attention_mask=read["attention_mask"],
            generation_config=self._settings,
            logits_processor=LogitsProcessorList([sampler]),
        )
        return self._tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)

    @property
    def _settings(self) -> GenerationConfig:
        """The network takes the token that `_Quantiles` leaves, and nothing else bends its probabilities."""
        return GenerationConfig(
            max_new_tokens=self.sampling.max_tokens,
            do_sample=False,
            repetition_penalty=1.0,
            pad_token_id=self._tokenizer.pad_token_id,
            eos_token_id=self._network.generation_config.eos_token_id or self._tokenizer.eos_token_id,
        )

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizer = self._read(AutoTokenizer, padding_side="left")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return tokenizer

    @cached_property
    def _network(self) -> Any:
        return self._read(AutoModelForCausalLM, dtype="auto", device_map="auto", use_safetensors=True).eval()

    @cached_property
    def _state(self) -> str:
        folder = local(self.model)
        if folder is None:
            return snapshot(self.model, self.revision, "degradation.llm.model", "config.json").commit
        if not (folder / "config.json").is_file():
            raise InputError(f"{self._where}: no config.json there: give a transformers model folder or a hub id")
        return file_identity(folder)

    def _read(self, kind: Any, **options: Any) -> Any:
        """`from_pretrained` of the very files that `identity` means."""
        folder, state = local(self.model), self._state
        where = {"revision": state} if folder is None else {}
        try:
            return kind.from_pretrained(folder or self.model, trust_remote_code=False, **where, **options)
        except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> InputError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return InputError(f"{self._where}: cannot be read ({reason[:200]}): check its name and the network")

    @property
    def _where(self) -> str:
        return f"degradation.llm.model {self.model}"


class _Quantiles(LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """Leaves one token a row: the quantile, at the row's next uniform number, of softmax(scores / temperature).

    Sampling with one generator a row, so that a row depends on its seed alone.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, tokens: int, width: int) -> None:
        self._numbers = torch.stack([torch.rand(tokens, generator=torch.Generator().manual_seed(s)) for s in seeds])
        self._temperature, self._width = temperature, width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        shares = (scores.float() / self._temperature).softmax(-1).cumsum(-1)
        number = self._numbers[:, input_ids.shape[1] - self._width, None].to(scores.device)
        token = torch.searchsorted(shares, number * shares[:, -1:], right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)
