"""What a person asks for: a model, hours, and memory."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddspo.errors import InputError, quoted

MINIATURE = "package://ddspo.scenes/noise"
USUAL, SHORT = "2h", "8m"
"""Budgets where none is given: of a model, and of the miniature."""
UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
SIZES = {"k": 10, "m": 20, "g": 30, "t": 40}


@dataclass(frozen=True)
class Wish:
    """What is asked for on the command line.

    Attributes:
        model: A diffusers folder, a hub id, or one file.
        loras: LoRA files that are merged into it first, each FILE or FILE:SCALE.
        config: Folder or hub id with the configuration of a model that is one file.
        prompts: Whose alignment is wished for, as prompts.path; None: made ones.
        budget: Seconds that all of it may take.
        memory: Bytes of the device; None: those of the device at hand.
        name: The run's.
        overrides: `key=value` of the recipe, which no choice changes.
    """

    model: str
    budget: float
    name: str
    loras: tuple[str, ...] = ()
    config: str | None = None
    prompts: str | None = None
    memory: int | None = None
    overrides: tuple[str, ...] = ()


def wished(
    model: str | None,
    overrides: Sequence[str],
    loras: Sequence[str],
    config: str | None,
    prompts: str | None,
    amounts: tuple[str | None, str | None, str | None],
) -> Wish:
    """What the command line asks for; `amounts` are budget, memory and name.

    Raises:
        InputError: An amount is none.
    """
    budget, memory, name = amounts
    if model and "=" in model and not Path(model).exists():  # no model, and the first of the overrides
        overrides, model = [model, *overrides], None
    return Wish(
        model=model or MINIATURE,
        budget=seconds_of(budget or (USUAL if model else SHORT), "--budget"),
        name=name or (name_of(model) if model else "miniature"),
        loras=tuple(loras),
        config=config,
        prompts=prompts,
        memory=bytes_of(memory, "--memory") if memory else None,
        overrides=tuple(overrides),
    )


def seconds_of(text: str, option: str) -> float:
    """Of `90s`, `45m`, `2h`, `1h30m`, `1.5h`.

    Raises:
        InputError: It is no time, or none at all.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd])", text.strip().lower())
    found = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != re.sub(r"\s", "", text.lower()) or not found:
        raise InputError(f"{option} {quoted(text)}: give a time, such as 2h, 45m or 1h30m")
    return found


def bytes_of(text: str, option: str) -> int:
    """Of `24GB`, `24GiB`, `24g` or `16000MB`, all in binary units, as cards are sold.

    Raises:
        InputError: It is no size, or none at all.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt])i?b?", text.strip().lower())
    size = int(float(found[1]) * 2 ** SIZES[found[2]]) if found else 0
    if not size:
        raise InputError(f"{option} {quoted(text)}: give a size, such as 24GB")
    return size


def name_of(model: str) -> str:
    """A run's name from a model's place: its last part, without what a run cannot be called."""
    last = model.rstrip("/").rpartition("/")[2].removesuffix(".safetensors")
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip(".-")[:80] or "aligned"
