"""Prompts that two lists share: what is to be held out must be in no other list."""

import re
from collections.abc import Iterable, Mapping, Sequence

from ddspo.errors import InputError, quoted
from ddspo.rows import Row

LISTS = {
    (
        "evaluate.prompts",
        "evaluate.validation",
    ): "the guidance scale would be chosen on what it is judged by",
    ("evaluate.prompts", "prompts"): "nothing would be held out from training",
    ("evaluate.validation", "prompts"): "",
}
"""Pairs of lists that should share nothing, and what is wrong with an evaluation where all of the first are shared."""


def overlaps(prompts: Sequence[str], items: Mapping[str, Sequence[Row]]) -> list[str]:
    """A line for every two lists of which some prompts are the same but for spaces and case.

    Args:
        prompts: What the model is aligned with, or the first of it.
        items: Rows of the split 'evaluation', and of 'validation' where there is one.

    Raises:
        InputError: Every prompt of the evaluation is in another list.
    """
    lists: dict[str, Sequence[str]] = {"prompts": prompts}
    for key, split in (("evaluate.validation", "validation"), ("evaluate.prompts", "evaluation")):
        lists[key] = [row["prompt"] for row in items.get(split, ())]
    lines = []
    for (name, other), fault in LISTS.items():
        elsewhere = {_plain(text) for text in lists[other]}
        shared = [text for text in lists[name] if _plain(text) in elsewhere]
        if shared and fault and len(shared) == len(lists[name]):
            raise InputError(f"{name}: all {len(shared):,} are in {other} too, so that {fault}: give others")
        if shared:
            found = f"{len(shared):,} of {len(lists[name]):,} are in {other} too"
            lines.append(f"{name}: {found}, for example {quoted(shared[0])}: leave them out of one of the two")
    return lines


def contamination(alignment: Iterable[str], evaluation: Sequence[str]) -> Row:
    """How many prompts of an evaluation are also among those that a model was aligned with.

    Texts are the same that differ in case, spaces and punctuation at most.

    Args:
        alignment: All prompts of the alignment; only those of the evaluation are kept in memory.
        evaluation: Those that are held out.

    Returns:
        `prompts`, the number of shared ones, `of`, that of the evaluation, and `examples`, three of them at most.
    """
    held_out = {_words(text) for text in evaluation}
    shared = {words for text in alignment if (words := _words(text)) in held_out}
    found = [text for text in evaluation if _words(text) in shared]
    return {"prompts": len(found), "of": len(evaluation), "examples": list(dict.fromkeys(found))[:3]}


def _words(text: str) -> str:
    """Letters and digits in lower case, a space between words; a text without any is its own."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold())) or text


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
