"""prompts -> prompts.jsonl: every prompt with its degraded variants."""

from collections.abc import Sequence

from ddspo import draws
from ddspo.degradations.base import Degradation, Degraded
from ddspo.errors import InputError
from ddspo.progress import Progress
from ddspo.run_folder import Row, RunFolder, write_rows

AT_ONCE = 256


def degrade(
    run: RunFolder, prompts: Sequence[Row], degradation: Degradation | None, seed: int, progress: Progress
) -> list[Row]:
    """Write and return rows {id, prompt, degraded: [{text, kind}], seed}, in the order of the prompts.

    Without a degradation the rows go through whole: labelled pairs need no degraded prompt, and a judge reads all.

    Raises:
        InputError: A prompt cannot be degraded.
    """
    if degradation is None:
        write_rows(run.prompts, prompts)
        return list(prompts)
    rows: list[Row] = []
    with progress.task("degrade", len(prompts)) as advance:
        for first in range(0, len(prompts), AT_ONCE):
            part = prompts[first : first + AT_ONCE]
            seeds = [draws.stable_seed(seed, row["id"], "degrade") for row in part]
            variants = vary(degradation, [row["prompt"] for row in part], seeds)
            rows += [_row(*each) for each in zip(part, variants, seeds, strict=True)]
            advance(len(part), "")
    progress.say(degradation.finish())
    write_rows(run.prompts, rows)
    return rows


def vary(degradation: Degradation, prompts: Sequence[str], seeds: Sequence[int]) -> list[list[Degraded]]:
    """The variants of each prompt, at least one.

    Raises:
        InputError: Some prompts cannot be degraded.
    """
    variants = degradation(prompts, seeds)
    refuse(degradation, prompts, [prompt for prompt, found in zip(prompts, variants, strict=True) if not found])
    return variants


def refuse(degradation: Degradation, prompts: Sequence[str], without: Sequence[str]) -> None:
    """Name the prompts that cannot be degraded.

    Raises:
        InputError: There are some.
    """
    if without:
        raise InputError(
            f"prompts: {len(without)} of {len(prompts)} cannot be degraded, for example {without[0]!r}: "
            f"write prompts with {degradation.needs}"
        )


def _row(prompt: Row, degraded: list[Degraded], seed: int) -> Row:
    found = [each._asdict() for each in degraded]
    return {"id": prompt["id"], "prompt": prompt["prompt"], "degraded": found, "seed": seed}
