"""Word removal: its properties on any prompt, and every public benchmark prompt."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddspo.degradations.remove_words import RemoveWords
from ddspo.errors import InputError
from ddspo.run_folder import read_rows

SHARED = Path(__file__).parents[2] / "shared" / "data"
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


def benchmark_prompts() -> list[str]:
    prompts = [row["prompt"] for row in read_rows(SHARED / "geneval_metadata.jsonl")]
    for file in (SHARED / "parti_prompts.txt", *sorted((SHARED / "t2i_compbench").glob("*.txt"))):
        prompts += [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return prompts


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public prompt lists are not here (../shared/data)")
def test_every_benchmark_prompt() -> None:
    """GenEval, PartiPrompts and T2I-CompBench: all pass but prompts of one word, which get no variant."""
    prompts = benchmark_prompts()
    assert len(prompts) > 4000
    words = [prompt for prompt in prompts if len(prompt.split()) > 1]
    for prompt, variants in zip(words, RemoveWords()(words, range(len(words))), strict=True):
        assert variants
        assert all(text and text != " ".join(prompt.split()) for text, _ in variants)
    single = [prompt for prompt in prompts if len(prompt.split()) == 1]
    assert 0 < len(single) < 100
    assert RemoveWords()(single, range(len(single))) == [[] for _ in single]
