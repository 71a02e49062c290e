"""What is asked of a language model, what it may answer, and what an answer is worth."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib import resources
from string import Template
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

Instructions = Literal["compositional", "aesthetic"]
Outcome = Literal["usable", "empty", "refused", "malformed", "unchanged"]


class Sampling(NamedTuple):
    """How answers are written: temperature, tokens at most, and how many at once (which changes none of them)."""

    temperature: float
    max_tokens: int
    at_once: int


class Ask(NamedTuple):
    """One question: the prompt that it is about, all that the model reads, and the seed of its answer."""

    prompt: str
    text: str
    seed: int


class Reply(NamedTuple):
    """One answer: to which of the questions, its text, and whether the model wrote it (only then is it kept)."""

    place: int
    text: str
    written: bool


class Engine(ABC):
    """Something that answers."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What answers, such that the same question to the same identity need not be asked again."""

    @abstractmethod
    def check(self) -> None:
        """Find what is missing without letting a model write.

        Raises:
            InputError: It cannot work.
        """

    @abstractmethod
    def replies(self, asks: Sequence[Ask]) -> Iterator[Reply]:
        """One reply to each question, in the order in which they come.

        Raises:
            InputError: Nothing answers any more.
        """


class Answer(BaseModel):
    """The form of an answer."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})  # some servers insist on it

    variants: list[str]


def question(instructions: Instructions, prompt: str, count: int) -> str:
    """The instructions with a prompt, quoted as JSON so that it cannot pass for more of them."""
    file = resources.files(__package__) / "_instructions" / f"{instructions}.txt"
    text = Template(file.read_text(encoding="utf-8"))
    return text.substitute(prompt=json.dumps(prompt, ensure_ascii=False), count=count).strip()


def judge(reply: str, prompt: str, count: int) -> tuple[list[str], Outcome]:
    """The variants in a reply, at most `count`, and what the reply was: usable or why not.

    A reply is empty if it says nothing, refused if it is prose without JSON or has an empty list, unchanged if all its
    variants are the prompt in other spaces, capitals or a full stop. What comes after its first object is not read.
    """
    text = reply.rpartition("</think>")[2]
    start = text.find("{")
    if start < 0:
        return [], "refused" if text.strip() else "empty"
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)  # small models go on with a prompt of their own
        variants = Answer.model_validate_json(text[start:end]).variants
    except (ValidationError, ValueError, RecursionError):
        return [], "malformed"
    if not variants:
        return [], "refused"
    found: dict[str, str] = {}
    for each in variants:
        found.setdefault(_bare(each), " ".join(each.split()))
    if not any(found):
        return [], "empty"
    texts = [text for bare, text in found.items() if bare and bare != _bare(prompt)]
    return texts[:count], "usable" if texts else "unchanged"


def _bare(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .")
