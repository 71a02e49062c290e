"""Prompts that two lists share: what is to be held out must be in no other list."""

from collections.abc import Mapping, Sequence

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
        items: Rows of the splits 'validation' and 'evaluation'.

    Raises:
        InputError: Every prompt of the evaluation is in another list.
    """
    lists: dict[str, Sequence[str]] = {"prompts": prompts}
    for key, split in (("evaluate.validation", "validation"), ("evaluate.prompts", "evaluation")):
        lists[key] = [row["prompt"] for row in items[split]]
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


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
