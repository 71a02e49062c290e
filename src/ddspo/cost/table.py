"""The cost of a run as a table, every quantity with its meaning and unit."""

import dataclasses
from collections.abc import Iterator, Mapping

from rich.table import Table

from ddspo import components
from ddspo.cost.memory import Device
from ddspo.cost.total import Cost, Disk, Host
from ddspo.cost.work import Work


def cost_table(found: Cost) -> Table:
    """Groups of rows, ready to print."""
    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for title, rows in readable(found):
        table.add_row(f"[bold]{title}")
        for meaning, value in rows:
            table.add_row(f"  {meaning}", value)
    return table


def stage_table(found: Cost, times: Mapping[str, float]) -> Table:
    """A row a stage: what it does, GiB at its peak of the accelerator and of main memory, and hours where known."""
    table = Table("stage", box=None)
    for title in ("forwards", "pairs", "texts", "images", "GiB", "main GiB", "hours"):
        table.add_column(title, justify="right", no_wrap=True)
    for each in found.stages:
        counts = (each.forwards, each.trained_pairs, each.texts, each.images)
        memory = [f"{size / 2**30:,.2f}" for size in (each.device_bytes, each.host_bytes)]
        table.add_row(
            each.name, *(f"{count:,}" if count else "" for count in counts), *memory, _hours(times, each.name)
        )
    most = [f"{size / 2**30:,.2f}" for size in (found.most_bytes, found.most_host_bytes)]
    table.add_row("[bold]in all", *[""] * 4, *most, _hours({"": sum(times.values())}, ""))
    return table


def _hours(times: Mapping[str, float], name: str) -> str:
    if name not in times:
        return ""
    hours = times[name] / 3600
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def readable(found: Cost) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Groups, each a title and rows {what it is, value with its unit}."""
    groups: list[Work | Disk | Host | Device] = [found.work, found.disk, found.host]
    groups += [found.pretraining] if found.pretraining else []
    for group in [*groups, found.device]:
        meanings = components.docs(type(group))
        values = {each.name: getattr(group, each.name) for each in dataclasses.fields(group)}
        yield type(group).__doc__ or "", [(meanings[name], with_unit(name, value)) for name, value in values.items()]


def with_unit(name: str, value: int) -> str:
    """A field's value as text: bytes in binary units, operations in decimal ones, counts as they are."""
    if name.endswith("_bytes"):
        power = max(0, min((value.bit_length() - 1) // 10, 4))
        return f"{value / 1024**power:,.4g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
    if name.endswith("_flops"):
        power = max(0, min((len(str(value)) - 1) // 3, 7))
        return f"{value / 1000**power:.4g} {('', 'k', 'M', 'G', 'T', 'P', 'E', 'Z')[power]}FLOP"
    return f"{value:,}"
