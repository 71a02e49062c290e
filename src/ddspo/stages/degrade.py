"""prompts -> prompts.jsonl: every prompt with its degraded variants; undegraded.jsonl names those that have none."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

from ddspo import randomness
from ddspo.backbones._readers import Reader, read_alike
from ddspo.degradations.base import Degradation, Degraded, is_unspaced
from ddspo.errors import InputError, quoted
from ddspo.files import write_rows, writing_rows
from ddspo.progress import Progress
from ddspo.rows import Row
from ddspo.run_folder import RunFolder

AT_ONCE = 256


def degrade(
    run: RunFolder,
    prompts: Iterable[Row],
    degradation: Degradation | None,
    seed: int,
    progress: Progress,
    total: int | None = None,
    readers: Sequence[Reader] = (),
) -> None:
    """Write rows {id, prompt, degraded: [{text, kind}], seed}, in the order of the prompts, a few in memory at a time.

    A variant that none of the text encoders tells from its prompt, because they differ beyond what is read, is none.
    Without a degradation the rows go through whole: labelled pairs need no degraded prompt, and a judge reads all.

    Raises:
        InputError: No prompt can be degraded.
    """
    if degradation is None:
        write_rows(run.prompts, prompts)
        return
    counts: Counter[bool] = Counter()
    example = ""
    rest = iter(prompts)
    with (
        progress.task("degrade", total) as advance,
        writing_rows(run.prompts) as write,
        writing_rows(run.undegraded) as report,
    ):
        while part := list(islice(rest, AT_ONCE)):
            for row in _rows(part, degradation, seed, readers):
                (write if row["degraded"] else report)(row)
                counts[bool(row["degraded"])] += 1
                example = example if row["degraded"] else row["prompt"]
            advance(len(part), "")
        progress.say(degradation.finish())
        if not counts[True]:
            raise nothing_left(degradation, counts[False], example)
    if counts[False]:
        progress.say(f"degrade: {counts[True]:,} of {counts.total():,} prompts, without those in {run.undegraded}")


def nothing_left(degradation: Degradation, count: int, example: str) -> InputError:
    """What is said where not one of `count` prompts can be degraded."""
    found = f"prompts: none of {count:,} can be degraded"
    if degradation.by_spaces and is_unspaced(example):
        return InputError(f"{found}: {unspaced(f'{quoted(example)} is')}")
    return InputError(f"{found}, for example {quoted(example)}: write prompts with {degradation.needs}")


def unspaced(which: str) -> str:
    """What is said of prompts whose words no space tells apart; `which` of them is or are."""
    return (
        f"{which} in a language without spaces between words, by which remove_words and skills tell them apart: "
        "use degradation=llm, or given"
    )


def _rows(prompts: Sequence[Row], degradation: Degradation, seed: int, readers: Sequence[Reader]) -> Iterable[Row]:
    seeds = [randomness.stable_seed(seed, row["id"], "degrade") for row in prompts]
    every = degradation.of_rows(prompts, seeds)
    for row, variants, own in zip(prompts, every, seeds, strict=True):
        _check(degradation, row["prompt"], variants)
        alike = read_alike(readers, row["prompt"], [each.text for each in variants])
        degraded = [each._asdict() for each, same in zip(variants, alike, strict=True) if not same]
        yield {"id": row["id"], "prompt": row["prompt"], "degraded": degraded, "seed": own}


def _check(degradation: Degradation, prompt: str, variants: Sequence[Degraded]) -> None:
    """What a degradation promises; a pair of one prompt with itself would teach nothing, and nobody would see it."""
    texts = [" ".join(each.text.split()) for each in variants]
    if not all(texts) or " ".join(prompt.split()) in texts:
        raise ValueError(f"{type(degradation).__name__} gave an empty or unchanged variant of {prompt!r:.100}")
