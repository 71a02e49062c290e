"""prompts.jsonl -> degradations/: what was done to prompts, and whether the model can tell."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import matplotlib.figure
import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ddspo import randomness
from ddspo.backbones.base import Backbone
from ddspo.degradations.base import overlap
from ddspo.errors import InputError, quoted
from ddspo.files import replace_atomically, write_json
from ddspo.progress import Progress
from ddspo.rows import Row, each_row
from ddspo.run_folder import RunFolder

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Places u in [0, 1) at which the gap is measured: more noise for greater u."""

EXAMPLES = 5
"""Prompts that cannot be degraded and are named."""


class Item(NamedTuple):
    """A prompt and one degraded prompt of it."""

    id: str
    prompt: str
    text: str


@dataclass(frozen=True)
class Measure:
    """How the target gap is measured: on the model's own samples, made as pairs are made."""

    backbone: Backbone
    pairs: int
    steps: int
    guidance: float
    batch: int
    seed: int


@dataclass
class _Kind:
    """What is known of one kind of degradation."""

    variants: int = 0
    prompts: int = 0
    kept: float = 0.0
    chosen: list[tuple[int, Item]] = field(default_factory=list)

    def add(self, item: Item, at_most: int) -> None:
        """Count a variant; those of the smallest hashes are chosen, so that order and neighbours do not matter."""
        self.variants += 1
        self.kept += overlap(item.prompt, item.text)
        entry = (-randomness.stable_seed(item.id, item.text), item)
        (heapq.heappush if len(self.chosen) < at_most else heapq.heappushpop)(self.chosen, entry)

    @property
    def items(self) -> list[Item]:
        """The chosen ones, in an order that is always the same."""
        return [item for _, item in sorted(self.chosen, reverse=True)]


def degrade_report(run: RunFolder, measure: Measure | None, progress: Progress) -> Row:
    """Write and return what `ddspo degrade` did: variants, kept words and target gaps of each kind, and who has none.

    Args:
        run: A run folder in which prompts were degraded.
        measure: The model of which the target gap is measured; None: it is not.
        progress: Where it is shown.

    Raises:
        InputError: The run's prompts were not degraded.
    """
    kinds: dict[str, _Kind] = {}
    prompts = 0
    for row in each_row(run.prompts):
        if "degraded" not in row:
            raise InputError(f"{run.prompts}: no degraded prompts: labelled pairs need none, so there is no report")
        prompts += 1
        for variant in row["degraded"]:
            kind = kinds.setdefault(variant["kind"], _Kind())
            kind.add(Item(row["id"], row["prompt"], variant["text"]), max(measure.pairs if measure else 0, 1))
        for name in {variant["kind"] for variant in row["degraded"]}:
            kinds[name].prompts += 1
    found = _found(run, kinds, prompts)
    if measure:
        found["gap"] = _gaps(measure, {name: kinds[name].items for name in found["kinds"]}, progress)
        replace_atomically(run.degradations / "gap.png", lambda path: _plot(found, path))
    write_json(run.degradations / "report.json", found)
    return found


def target_gap(win: Tensor, lose: Tensor) -> Tensor:
    """Mean square of the difference of two predictions [B, ...], in the network's own space: [B]."""
    return (win.float() - lose.float()).square().flatten(1).mean(1)


@torch.no_grad()
def _gaps(measure: Measure, items: Mapping[str, Sequence[Item]], progress: Progress) -> Row:
    """|eps(x_t, c) - eps(x_t, c-)|^2 of each kind at some times; for comparison, with an empty prompt in place of c-.

    x_t are the states of training: the model's samples under c and under c-, made with the recipe's own sampler from
    one initial noise, and noised. Noise alone would be right at the last times only, where a network hardly reads its
    prompt; pairs that a run may already have do not hold all kinds, and the samples of a few are soon made.
    """
    gaps: dict[str, list[float]] = {}
    empty: list[Tensor] = []
    with progress.task("gap", sum(map(len, items.values()))) as advance:
        for kind, every in items.items():
            parts = []
            for first in range(0, len(every), measure.batch):
                part = every[first : first + measure.batch]
                both = _gap(measure, part)
                parts.append(both[0])
                empty.append(both[1])
                advance(len(part), kind)
            gaps[kind] = torch.cat(parts, dim=1).mean(1).tolist()
    t = measure.backbone.path.times(torch.tensor(TIMES)).tolist()
    nothing = torch.cat(empty, dim=1).mean(1).tolist()
    space = measure.backbone.path.space
    return {"space": space, "pairs": measure.pairs, "u": TIMES, "t": t, "kinds": gaps, "empty_prompt": nothing}


def _gap(measure: Measure, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
    """Gaps [times, 2 items] of some items to their degraded and to the empty prompt, on both samples of each."""
    backbone, path = measure.backbone, measure.backbone.path
    prompts, degraded = [item.prompt for item in items] * 2, [item.text for item in items] * 2
    seeds = [randomness.stable_seed(measure.seed, item.id, item.text, "gap") for item in items] * 2
    x0 = backbone.generate(prompts[: len(items)] + degraded[: len(items)], seeds, measure.steps, measure.guidance)
    conditions = [backbone.encode(texts) for texts in (prompts, degraded, [""] * len(prompts))]
    rows = []
    for u in TIMES:
        t = path.times(torch.full((len(x0),), u)).to(x0.device)
        noise = randomness.normal([randomness.stable_seed(seed, str(u)) for seed in seeds], x0.shape[1:]).to(x0.device)
        x_t = path.noise(x0, noise, t)
        whole, poorer, empty = (backbone.predict(backbone.denoiser, x_t, t, each) for each in conditions)
        rows.append(torch.stack([target_gap(whole, poorer), target_gap(whole, empty)]).cpu())
    both = torch.stack(rows, dim=1)
    return both[0], both[1]


def _found(run: RunFolder, kinds: Mapping[str, _Kind], prompts: int) -> Row:
    """Figures of the texts alone, the most frequent kind first."""
    without = list(each_row(run.undegraded)) if run.undegraded.exists() else []
    variants = sum(kind.variants for kind in kinds.values())
    rows = {}
    for name, kind in sorted(kinds.items(), key=lambda each: (-each[1].variants, each[0])):
        example = kind.items[0]
        rows[name] = {
            "variants": kind.variants,
            "share": kind.variants / variants,
            "prompts": kind.prompts,
            "kept_words": kind.kept / kind.variants,
            "example": {"prompt": example.prompt, "degraded": example.text},
        }
    named = [row["prompt"] for row in without[:EXAMPLES]]
    return {"prompts": prompts + len(without), "undegraded": len(without), "undegraded_examples": named, "kinds": rows}


def degrade_page(found: Row) -> Group:
    """The report, ready to print: a table of the kinds, and an example of each."""
    gap = found.get("gap")
    table = Table("kind", box=None, padding=(0, 2, 0, 0))
    for name in ("variants", "kept words", *(f"t={t:.0f}" for t in (gap["t"] if gap else ()))):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in found["kinds"].items():
        gaps = gap["kinds"][name] if gap else ()
        table.add_row(name, f"{row['variants']:,}", f"{row['kept_words']:.0%}", *(f"{value:.1e}" for value in gaps))
    if gap:
        table.add_row("empty prompt", "", "", *(f"{value:.1e}" for value in gap["empty_prompt"]))
    examples = [
        f"{name}: {quoted(row['example']['prompt'])} -> {quoted(row['example']['degraded'])}"
        for name, row in found["kinds"].items()
    ]
    return Group(
        *map(Text, _summary(found)), table, *(Text(line, no_wrap=True, overflow="ellipsis") for line in examples)
    )


def _summary(found: Row) -> Iterator[str]:
    named = ", ".join(map(repr, found["undegraded_examples"]))
    examples = f", for example {named}" if named else ""
    yield f"{found['prompts']:,} prompts, {found['undegraded']:,} of them cannot be degraded{examples}"
    if "gap" in found:
        gap = found["gap"]
        yield f"t=...: target gap (mean square, {gap['space']}) on {gap['pairs']} pairs of each kind at most"


def _plot(found: Row, path: Path) -> None:
    """Target gap by time, a line a kind."""
    gap = found["gap"]
    figure = matplotlib.figure.Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="t", ylabel=f"target gap (mean square, {gap['space']})", yscale="log")
    for number, (name, values) in enumerate(gap["kinds"].items()):
        axes.plot(
            gap["t"],
            values,
            marker="o",
            label=name,
            color=f"C{number % 10}",
            linestyle=("-", "--", ":")[number // 10 % 3],
        )
    axes.plot(gap["t"], gap["empty_prompt"], color="black", linewidth=2, label="empty prompt")
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, format="png", dpi=110)
