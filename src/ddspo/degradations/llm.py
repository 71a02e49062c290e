"""A language model rewrites prompts to ask for less, or for worse pictures (the paper's second kind)."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Interval, Le
from typing_extensions import Doc

from ddspo import randomness
from ddspo.degradations._answers import Answers, answers, usual_place
from ddspo.degradations._chat import Ask, Engine, Instructions, Sampling, judge, question
from ddspo.degradations._endpoint import Endpoint
from ddspo.degradations.base import Degradation, Degraded
from ddspo.errors import InputError

ELSEWHERE = ("key_variable", "timeout", "requests_per_minute")
"""Options that only an endpoint has."""
URL = re.compile(r"https?://[^\s/@]+(/[^\s@]*)?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class LLM(Degradation):
    """Asks an instruction model for JSON; an answer without a usable variant is asked for again with another seed."""

    needs: ClassVar[str] = "something that the language model can take away or spoil"
    mechanical: ClassVar[frozenset[str]] = frozenset({"endpoint", "at_once", "cache", *ELSEWHERE})

    model: Annotated[str, Doc("a folder or hub id of transformers, or what the endpoint calls its model")]
    endpoint: Annotated[
        str | None, Doc("an OpenAI-compatible API, such as http://localhost:8000/v1; null: on this machine")
    ] = None
    instructions: Annotated[
        Instructions, Doc("what becomes poorer: compositional, the content; aesthetic, how well it is made")
    ] = "compositional"
    variants: Annotated[int, Gt(0), Le(100), Doc("variants asked for in one answer")] = 3
    temperature: Annotated[float, Gt(0), Le(10), Doc("of sampling")] = 0.7
    max_tokens: Annotated[int, Gt(0), Doc("longest answer; a longer one is cut and worthless")] = 512
    retries: Annotated[
        int, Ge(0), Le(1000), Doc("further answers, each with another seed, for a prompt without a variant")
    ] = 3
    at_once: Annotated[int, Gt(0), Le(10_000), Doc("prompts in a batch, or requests in flight")] = 16
    revision: Annotated[str | None, Doc("branch, tag or commit of a hub id; not with an endpoint")] = None
    key_variable: Annotated[
        str | None, Doc("name of the environment variable that holds the endpoint's key; null: no key")
    ] = None
    timeout: Annotated[
        Annotated[float, Gt(0), Le(86_400)] | None, Doc("seconds the endpoint has for an answer; null: 120")
    ] = None
    requests_per_minute: Annotated[
        Annotated[float, Interval(ge=0.01, le=1e6)] | None,
        Doc("what the endpoint may be asked; null: whatever it bears"),
    ] = None
    cache: Annotated[
        str | None, Doc("sqlite file of all answers; null: ddspo/answers.sqlite in the user's cache folder")
    ] = None

    def __post_init__(self) -> None:
        without = [name for name in ELSEWHERE if vars(self)[name] is not None]
        if self.endpoint is None and without:
            raise InputError(f"llm: {without[0]} is for an endpoint: give one or leave it out")
        if self.endpoint is not None and self.revision is not None:
            raise InputError("llm: an endpoint knows no revision: leave it out")
        if self.endpoint is not None and not URL.fullmatch(self.endpoint):
            raise InputError("llm: endpoint: give http://HOST/v1 or https://HOST/v1, without a password")
        if self.key_variable is not None and not VARIABLE.fullmatch(self.key_variable):
            raise InputError("llm: key_variable: give the name of an environment variable, never the key itself")

    def check(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """The model, or the server, and the file of answers are there; what cannot be degraded, only answers tell."""
        self._engine.check()
        with answers(self._cache):
            return []

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[list[Degraded]]:
        """Variants of each prompt; none where no answer was usable. What came before is read from the cache."""
        found: list[list[str]] = [[] for _ in prompts]
        with answers(self._cache) as kept:
            for attempt in range(1 + self.retries):
                left = [index for index, variants in enumerate(found) if not variants]
                asks = [self._ask(prompts[index], seeds[index], attempt) for index in left]
                for index, text in zip(left, self._replies(asks, kept), strict=True):
                    found[index], outcome = judge(text, prompts[index], self.variants)
                    self._outcomes[outcome] += 1
                    self._examples[outcome] = text
        return [[Degraded(text, f"llm:{self.instructions}") for text in variants] for variants in found]

    def finish(self) -> str:
        """Let go of the model; how many answers were usable, and of each other sort how many, with an example."""
        sorts = [f"{count} {outcome}{self._example(outcome)}" for outcome, count in self._outcomes.most_common()]
        said = f"llm: {self._outcomes.total()} answers: {', '.join(sorts)}"
        for loaded in ("_engine", "_outcomes", "_examples"):
            vars(self).pop(loaded, None)
        return said

    def _example(self, outcome: str) -> str:
        return "" if outcome in ("usable", "empty") else f" (such as {self._examples[outcome][:80]!r})"

    def _ask(self, prompt: str, seed: int, attempt: int) -> Ask:
        seed = randomness.stable_seed(seed, "llm", attempt) % 2**31  # servers read 32 bits
        return Ask(prompt, question(self.instructions, prompt, self.variants), seed)

    def _replies(self, asks: Sequence[Ask], kept: Answers) -> list[str]:
        keys = [self._key(ask) for ask in asks]
        texts = [kept.get(key) for key in keys]
        new = [index for index, text in enumerate(texts) if text is None]
        for reply in self._engine.replies([asks[index] for index in new]) if new else ():
            texts[new[reply.place]] = reply.text
            if reply.written:
                kept.keep(keys[new[reply.place]], reply.text)
        return [text or "" for text in texts]

    def _key(self, ask: Ask) -> str:
        """Digest of everything that an answer depends on."""
        parts = [self._engine.identity, self.temperature, self.max_tokens, ask.text, ask.seed]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def _cache(self) -> Path:
        return Path(self.cache).expanduser() if self.cache else usual_place()

    @cached_property
    def _engine(self) -> Engine:
        sampling = Sampling(self.temperature, self.max_tokens, self.at_once)
        if self.endpoint is None:
            from ddspo.degradations._local_chat import LocalChat  # an endpoint needs nothing of transformers

            return LocalChat(self.model, self.revision, sampling)
        timeout, rate = self.timeout or 120.0, self.requests_per_minute
        return Endpoint(self.endpoint, self.model, self.key_variable, timeout, rate, sampling)

    @cached_property
    def _outcomes(self) -> Counter[str]:
        return Counter()

    @cached_property
    def _examples(self) -> dict[str, str]:
        return {}
