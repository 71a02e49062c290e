"""What every degradation promises, on the public prompt lists and on any text."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddspo import components
from ddspo.degradations._chat import Ask, Engine, Reply
from ddspo.degradations.base import Degradation, Degraded
from ddspo.degradations.remove_words import RemoveWords
from ddspo.prompts.reading import read_prompts

SHARED = Path(__file__).parents[3] / "shared" / "data"
NAMES = components.names(Degradation)
TRAPS = (
    "",
    " ",
    ".",
    "\x00",
    "a",
    "a a a",
    "a. b",
    "{}",
    '{"variants": []}',
    "</think>",
    "$prompt",
    "🦄 🦄",
    "\u202e a",
)


class Scripted(Engine):
    """A language model's place: what it says hangs on question and seed, and some of it is not fit for use."""

    identity = "scripted"

    def check(self) -> None:
        pass

    def replies(self, asks: Sequence[Ask]) -> Iterator[Reply]:
        for place, ask in enumerate(asks):
            shorter = " ".join(ask.prompt.split()[1:])
            variants = [ask.prompt, f" {ask.prompt.upper()}.", "", shorter, f"something {ask.seed % 5}"]
            yield Reply(place, "I cannot." if ask.seed % 7 == 0 else json.dumps({"variants": variants}), written=True)


@pytest.fixture(scope="module", params=NAMES)
def degradation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Degradation:
    cache = str(tmp_path_factory.mktemp("answers") / "answers.sqlite")
    options = {"llm": {"model": "scripted", "cache": cache}}.get(request.param, {})
    built: Degradation = components.construct(Degradation, {request.param: options}, "degradation")
    if request.param == "llm":
        vars(built)["_engine"] = Scripted()
    return built


def keeps_its_promise(prompt: str, variants: Sequence[Degraded]) -> bool:
    """None is empty, the prompt itself, or another one again, and each says what was done."""
    texts = [" ".join(each.text.split()) for each in variants]
    different = len(set(texts)) == len(texts) and " ".join(prompt.split()) not in texts
    return different and all(texts) and all(each.kind for each in variants)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public prompt lists are not here (../shared/data)")
def test_every_public_prompt(degradation: Degradation) -> None:
    """GenEval, PartiPrompts and T2I-CompBench; one at a time and in another order the variants are the same."""
    files = SHARED / "geneval_metadata.jsonl", SHARED / "parti_prompts.txt", SHARED / "t2i_compbench"
    prompts = [row["prompt"] for file in files for row in read_prompts(str(file), "prompts")]
    assert len(prompts) > 4000
    found = degradation(prompts, range(len(prompts)))
    assert all(map(keeps_its_promise, prompts, found))
    for place in range(0, len(prompts), 211):
        assert degradation([prompts[place]], [place]) == [found[place]]
    places = list(range(0, len(prompts), 101))[::-1]
    assert degradation([prompts[place] for place in places], places) == [found[place] for place in places]
    if isinstance(degradation, RemoveWords):
        assert [bool(variants) for variants in found] == [len(prompt.split()) > 1 for prompt in prompts]


@given(st.lists(st.sampled_from(TRAPS) | st.text(max_size=30), max_size=4), st.integers(0, 2**63 - 1))
@settings(max_examples=15)
def test_any_text(degradation: Degradation, prompts: list[str], seed: int) -> None:
    seeds = [seed + place for place in range(len(prompts))]
    found = degradation(prompts, seeds)
    assert all(map(keeps_its_promise, prompts, found))
    assert degradation(prompts[::-1], seeds[::-1]) == found[::-1]
    column = degradation.reads or "other"
    rows = [{"id": "p", "prompt": prompt, column: ["a cat", prompt, " ", "a  cat"]} for prompt in prompts]
    of_rows = degradation.of_rows(rows, seeds)
    assert all(map(keeps_its_promise, prompts, of_rows))
    assert degradation.reads or of_rows == found
