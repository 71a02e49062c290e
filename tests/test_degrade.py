"""Word removal on any prompt, and the stage: what cannot be degraded is named, and nothing is held in memory."""

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ddspo.backbones._readers import read_alike
from ddspo.backbones.sd import SD
from ddspo.degradations.base import Degradation, Degraded, is_unspaced
from ddspo.degradations.remove_words import RemoveWords
from ddspo.errors import InputError
from ddspo.progress import Progress
from ddspo.rows import Row, read_rows
from ddspo.run_folder import RunFolder
from ddspo.stages.degrade import AT_ONCE, degrade

WORD = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=4)
PROMPT = st.lists(WORD, min_size=2, max_size=40)
SEED = st.integers(0, 2**63 - 1)


def is_subsequence(part: list[str], whole: list[str]) -> bool:
    rest = iter(whole)
    return all(word in rest for word in part)


@given(PROMPT, SEED)
def test_variants_are_shorter_and_in_order(words: list[str], seed: int) -> None:
    """Of n words max(1, floor(r n)) go, .4 <= r < .7, and one always stays; equal variants are merged."""
    (variants,) = RemoveWords()([" ".join(words)], [seed])
    n = len(words)
    assert 1 <= len(variants) <= 5
    assert len(set(variants)) == len(variants)
    for variant, kind in variants:
        assert kind == "remove_words"
        kept = variant.split()
        assert kept
        assert is_subsequence(kept, words)
        assert max(1, int(0.4 * n)) <= n - len(kept) <= max(1, int(0.7 * n))


@given(PROMPT, SEED)
def test_a_prompt_depends_on_its_own_seed_only(words: list[str], seed: int) -> None:
    prompt = " ".join(words)
    (alone,) = RemoveWords()([prompt], [seed])
    assert RemoveWords()(["another prompt here", prompt], [1, seed])[1] == alone


@given(PROMPT, SEED, st.floats(0, 1), st.floats(0, 1))
def test_shares_are_the_recipes(words: list[str], seed: int, one: float, other: float) -> None:
    least, most = sorted((one, other))
    (variants,) = RemoveWords(least=least, most=most, variants=3)([" ".join(words)], [seed])
    n = len(words)
    for variant in variants:
        dropped = n - len(variant.text.split())
        assert min(max(1, int(least * n)), n - 1) <= dropped <= min(max(1, int(most * n)), n - 1)


def test_spaces_do_not_matter() -> None:
    assert RemoveWords()(["  a  red\tcube "], [3]) == RemoveWords()(["a red cube"], [3])


def test_two_words_leave_one_of_them() -> None:
    assert sorted(text for text, _ in RemoveWords(variants=50)(["red cube"], [0])[0]) == ["cube", "red"]


@pytest.mark.parametrize("prompt", ["", "  ", "bond"])
def test_one_word_cannot_be_degraded(prompt: str) -> None:
    assert RemoveWords()([prompt], [0]) == [[]]


def test_bounds_in_the_wrong_order() -> None:
    with pytest.raises(InputError, match=r"least 0\.8 is above most 0\.7"):
        RemoveWords(least=0.8)


PROMPTS = [{"id": "a", "prompt": "a red cube"}, {"id": "b", "prompt": "bond"}, {"id": "c", "prompt": "two cats"}]


def test_what_cannot_be_degraded_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    run, console = RunFolder(tmp_path), Console(file=io.StringIO(), width=500)
    degrade(run, iter(PROMPTS), RemoveWords(), 0, Progress(console=console))
    assert [row["id"] for row in read_rows(run.prompts)] == ["a", "c"]
    assert [row["prompt"] for row in read_rows(run.undegraded)] == ["bond"]
    assert isinstance(console.file, io.StringIO)
    assert f"degrade: 2 of 3 prompts, without those in {run.undegraded}" in console.file.getvalue()


def test_nothing_left(tmp_path: Path) -> None:
    """Neither file appears."""
    run = RunFolder(tmp_path)
    with pytest.raises(
        InputError, match="none of 1 can be degraded, for example 'bond': write prompts with two words or more"
    ):
        degrade(run, PROMPTS[1:2], RemoveWords(), 0, Progress(speaks=False))
    assert not run.prompts.exists()
    assert not run.undegraded.exists()


CHINESE = "一只红色的猫在桌子上"


def test_words_that_no_space_tells_apart(tmp_path: Path) -> None:
    """Most letters decide: Korean and Russian have spaces, Chinese, Japanese and Thai have none."""
    with pytest.raises(InputError, match=f"none of 1 can be degraded: '{CHINESE}' is in a language without spaces"):
        degrade(RunFolder(tmp_path), [{"id": "a", "prompt": CHINESE}], RemoveWords(), 0, Progress(speaks=False))
    without = (CHINESE, f"{CHINESE}, 8k", "テーブルの上の猫", "แมว")
    assert all(map(is_unspaced, without))
    others = ("a cat", "", "8, 9!", "синий куб", "파란 상자")
    assert not any(map(is_unspaced, (*others, "the kanji 猫 on a sign")))


def test_prompts_are_read_as_they_are_written(tmp_path: Path) -> None:
    """Of a source without end no more is read than what is degraded at once and the row after it."""
    read: list[int] = []

    def endless() -> Iterator[Row]:
        for number in itertools.count():
            read.append(number)
            if number == 3 * AT_ONCE:
                raise EOFError
            yield {"id": str(number), "prompt": f"a red cube {number}"}

    seen: list[int] = []

    @dataclass(frozen=True)
    class Watched(Degradation):
        needs: ClassVar[str] = "nothing"

        def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[list[Degraded]]:
            seen.append(len(read))
            return [[Degraded("a cube", "watched")] for _ in prompts]

    with pytest.raises(EOFError):
        degrade(RunFolder(tmp_path), endless(), Watched(), 0, Progress(speaks=False))
    assert seen == [AT_ONCE, 2 * AT_ONCE, 3 * AT_ONCE]


@pytest.mark.parametrize("text", ["", " ", "a  red cube"])
def test_a_degradation_that_breaks_its_promise(tmp_path: Path, text: str) -> None:
    @dataclass(frozen=True)
    class Broken(Degradation):
        needs: ClassVar[str] = "nothing"

        def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[list[Degraded]]:
            return [[Degraded(text, "broken")] for _ in prompts]

    with pytest.raises(ValueError, match="Broken gave an empty or unchanged variant of 'a red cube'"):
        degrade(RunFolder(tmp_path), PROMPTS[:1], Broken(), 0, Progress(speaks=False))


@dataclass(frozen=True)
class LastWord(Degradation):
    """Takes the last word, and for a second variant the first."""

    needs: ClassVar[str] = "two words or more"

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[list[Degraded]]:
        both = [(" ".join(prompt.split()[:-1]), " ".join(prompt.split()[1:])) for prompt in prompts]
        return [[Degraded(text, "some") for text in texts] for texts in both]


def test_what_no_text_encoder_reads_is_not_all_that_is_dropped(tmp_path: Path) -> None:
    """SD's tiny tokenizer reads a letter a token, 16 with the ends: of 20 letters the last 6 are never read.

    Without the last one the prompt is read as before, so that this variant is none; without the first it is not. Of
    several readers it is enough that one tells them apart.
    """
    long, short = " ".join("abcdefghij" * 2), "a b"
    rows = [{"id": "long", "prompt": long}, {"id": "short", "prompt": short}]
    run = RunFolder(tmp_path)
    degrade(run, rows, LastWord(), 5, Progress(speaks=False), readers=SD.tiny().readers())
    found = {row["id"]: [each["text"] for each in row["degraded"]] for row in read_rows(run.prompts)}
    assert found == {"long": [long[2:]], "short": ["a", "b"]}
    (reader,) = SD.tiny().readers()
    assert reader.alike(long, [long[:-2], long[2:], long[: 2 * 14], long[: 2 * 13]]) == [True, False, True, False]
    longer = replace(reader, limit=100)
    assert read_alike([reader, longer], long, [long[:-2]]) == [False]
    assert read_alike([reader, reader], long, [long[:-2]]) == [True]
