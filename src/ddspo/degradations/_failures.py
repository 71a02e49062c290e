"""How often a base model fails at each skill, from the scores of an evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddspo.degradations._edits import SKILLS
from ddspo.errors import InputError, quoted
from ddspo.rows import each_row

TESTED_BY: Mapping[str, tuple[str, ...]] = {
    "object": ("single_object", "two_object"),
    "count": ("counting",),
    "relation": ("position",),
}
"""GenEval's tags by skill; every attribute is judged by those of colours, the only ones that GenEval tests."""

ATTRIBUTES_TESTED_BY = ("colors", "color_attr")


def failure_rates(path: Path, where: str) -> dict[str, float]:
    """The base model's failure rate r = (failures + 1) / (images + 2) of each skill.

    Only rows of the validation split count, over all guidance scales: what the evaluation prompts say must not get
    into training. Controls, which are judged against another prompt, do not count either. Laplace's rule keeps a
    skill at which it never failed possible.

    Args:
        path: The `scores/geneval.jsonl` of a run, which `ddspo evaluate` writes.
        where: The recipe key that the path came from, for messages.

    Raises:
        InputError: There is no such file, or it is none of GenEval's scores.
    """
    if not path.is_file():
        raise InputError(f"{where}: no file {path}: give scores/geneval.jsonl of a run that was evaluated")
    failures: dict[str, list[float]] = {}
    for number, row in enumerate(each_row(path), start=1):
        _check(row, f"{where}: {path}: row {number}")
        if (row["model"], row["split"]) == ("base", "validation") and not row["control"]:
            failures.setdefault(row["tag"], []).append(1 - row["value"])
    if not failures:
        raise InputError(
            f"{where}: {path} has no row of the base model on validation prompts: give one of a run that had several "
            "evaluate.scales, with evaluate.choose=geneval"
        )
    return {skill: _rate(failures, TESTED_BY.get(skill, ATTRIBUTES_TESTED_BY)) for skill in SKILLS}


def _rate(failures: Mapping[str, Sequence[float]], tags: Sequence[str]) -> float:
    values = [value for tag in tags for value in failures.get(tag, ())]
    return (sum(values) + 1) / (len(values) + 2)


def _check(row: Mapping[str, Any], where: str) -> None:
    known = {tag for tags in (*TESTED_BY.values(), ATTRIBUTES_TESTED_BY) for tag in tags}
    missing = [key for key in ("model", "split", "control", "tag", "value") if key not in row]
    if missing:
        raise InputError(f"{where}: no {quoted(missing[0])}: give scores/geneval.jsonl of a run")
    if row["tag"] not in known:
        raise InputError(
            f"{where}: tag {quoted(row['tag'])} is none of {', '.join(sorted(known))}: give scores of geneval"
        )
    if not isinstance(row["value"], int | float) or not 0 <= row["value"] <= 1:
        raise InputError(f"{where}: value {quoted(row['value'])} is not between 0 and 1: give scores of geneval")
