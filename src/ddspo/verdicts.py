"""`ddspo judge`: folders of images that anyone made, to scores and comparisons; it needs no recipe and no model."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from ddspo import components
from ddspo.agreement import agree, alone
from ddspo.digests import file_identity
from ddspo.errors import InputError, legible, shortened
from ddspo.files import write_json
from ddspo.galleries import open_folder, readable
from ddspo.judging.judging import Judging, References
from ddspo.judging.panel import Panel
from ddspo.judging.pictures import Gallery
from ddspo.metrics.base import Measure, SetMetric
from ddspo.progress import Progress
from ddspo.recipe import override
from ddspo.references import check_references, read_references
from ddspo.rows import Row


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for.

    Attributes:
        metrics: Names.
        options: `METRIC.KEY=VALUE`.
        batch: Images that a judge gets at once.
        skips: Whether what is damaged is left out.
    """

    folders: tuple[Path, ...]
    metrics: tuple[str, ...]
    options: tuple[str, ...]
    references: Path | None
    out: Path | None
    batch: int
    skips: bool


class Entered(NamedTuple):
    """The galleries that are judged, and what was left out of them."""

    galleries: dict[str, Gallery]
    faults: list[str]


def judge(wanted: Wanted, console: Console) -> Row:
    """Judge folders, print a table, and write the file that was asked for.

    Raises:
        InputError: A folder, an image, an option or a row is not as it should be; one line.
    """
    metrics = measures(wanted.metrics, wanted.options)
    accelerator = Accelerator()
    progress = Progress(speaks=accelerator.is_main_process)
    references = agree(partial(_references, wanted.references, metrics))
    entered = agree(partial(_enter, wanted, metrics, progress))
    rows: dict[str, Sequence[Row]] = {}
    panel = Panel(metrics, references, Judging(accelerator, progress, wanted.batch), rows.__setitem__)
    found = panel.judge({name: gallery.pictures for name, gallery in entered.galleries.items()}, {})
    result = {"models": [*entered.galleries]} | found | {"left_out": entered.faults}
    if wanted.out:
        out = wanted.out
        alone(lambda: write_json(out, result | {"images": rows}))
    if accelerator.is_main_process:
        for line in _remarks(result):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print(_table(result))
    return result


def measures(names: Sequence[str], options: Sequence[str]) -> tuple[Measure, ...]:
    """The metrics of some names, with options.

    Raises:
        InputError: A name or an option is unknown, or an option is of another metric.
    """
    tree: Row = {name: {} for name in names}
    for option in options:
        name = option.partition(".")[0]
        if name not in tree:
            raise InputError(
                f"--set {shortened(option)}: none of --metric: write METRIC.KEY=VALUE, of {', '.join(tree)}"
            )
        override(tree, option)
    return components.construct(tuple[Measure, ...], [{name: given} for name, given in tree.items()], "--metric")


def _references(place: Path | None, metrics: Sequence[Measure]) -> References | None:
    needs = [metric.name for metric in metrics if metric.needs_references]
    if place is None:
        if needs:
            raise InputError(f"--references: missing: {', '.join(needs)} needs real images: give a folder of them")
        return None
    check_references(str(place), "--references")
    return References(file_identity(place), partial(read_references, str(place), "--references"))


def _enter(wanted: Wanted, metrics: Sequence[Measure], progress: Progress) -> Entered:
    """Everything that can be found wrong before a judge is loaded."""
    faults: list[str] = []
    galleries: list[Gallery] = []
    for folder, opened in [(folder, open_folder(folder)) for folder in wanted.folders]:
        faults += opened.faults
        several = len(opened.galleries) > 1
        for each in opened.galleries:
            whole, broken = readable(each, progress)
            faults += broken
            name = each.name if several or not folder.name else folder.name
            galleries.append(
                replace(whole, name=f"{folder.name}/{name}" if several and len(wanted.folders) > 1 else name)
            )
    if faults and not wanted.skips:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputError(f"{faults[0]}{more}; --skip-damaged judges the rest")
    named = dict(_named(galleries))
    _check(named, metrics)
    return Entered(named, faults)


def _named(galleries: Sequence[Gallery]) -> Iterator[tuple[str, Gallery]]:
    """Each under a name of its own."""
    counts: Counter[str] = Counter()
    for gallery in galleries:
        counts[gallery.name] += 1
        number = counts[gallery.name]
        name = gallery.name if number == 1 else f"{gallery.name} ({number})"
        yield name, replace(gallery, name=name)


def _check(galleries: dict[str, Gallery], metrics: Sequence[Measure]) -> None:
    for name, gallery in galleries.items():
        if not gallery.pictures:
            raise InputError(f"{shortened(name)}: no image that can be judged")
        for metric in metrics:
            if isinstance(metric, SetMetric) and len(gallery.pictures) < 2:
                raise InputError(f"{shortened(name)}: one image, and {metric.name} measures sets: give more")
            for picture in gallery.pictures:
                fault = metric.missing(picture.row)
                if fault:
                    raise InputError(f"{shortened(str(picture.path))}: {metric.name}: {fault}")


def _remarks(result: Row) -> Iterator[str]:
    """What must be known beside the figures."""
    if result["left_out"]:
        yield f"left out: {len(result['left_out'])}, the first: {result['left_out'][0]}"
    for name, found in {**result["metrics"], **result["sets"]}.items():
        if not found["commercial"]:
            yield f"{name}: {', '.join(found['licences'])}"
    for name, found in result["metrics"].items():
        alone = [model for model, each in [*found["models"].items()][1:] if "difference" not in each]
        if alone:
            yield f"{name}: {', '.join(map(legible, alone))}: no prompt is also in {legible(result['models'][0])}"


def _table(result: Row) -> Table:
    table = Table("metric", "images", "score", "difference, 95 %", "prompts won, 95 %", "control", box=None)
    for name, found in result["metrics"].items():
        for model, each in found["models"].items():
            differs = "difference" in each
            table.add_row(
                name if model == result["models"][0] else "",
                legible(model),
                f"{each['score']:.4g}",
                _with_interval(each["difference"], each["interval"], "+.3g") if differs else "",
                _with_interval(100 * each["won"], [100 * end for end in each["won_interval"]], ".0f")
                if differs
                else "",
                "" if each["control"] is None else f"{each['control']:.4g}",
            )
    for name, found in result["sets"].items():
        for model, each in found["models"].items():
            more = ", ".join(f"{key} {value:.4g}" for key, value in each["more"].items())
            first = name if model == result["models"][0] else ""
            table.add_row(first, legible(model), f"{each['value']:.4g}", more, "", "")
    return table


def _with_interval(value: float, interval: Sequence[float], form: str) -> str:
    low, high = interval
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"
