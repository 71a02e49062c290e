"""How far a stage is: a bar on a terminal, a line now and then in a log. Only the first process speaks."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from ddspo.errors import legible

LEAST, MOST = 30.0, 600.0
"""Seconds between two lines of a log: never fewer, and no more if anything was done."""
SHARE = 0.1
"""Of the whole, after which there is a line; where nobody knows the whole, of what was done at the last line."""


class Advance(Protocol):
    """Tells that some more items are done."""

    def __call__(self, count: int, note: str = "", *, kept: bool = False) -> None:
        """`kept` ones were there before, and say nothing of how fast it goes."""
        ...


class _Rate(ProgressColumn):
    """Items a second, or seconds an item where there is less than one."""

    def render(self, task: Task) -> Text:
        """The rate of one task."""
        speed = task.finished_speed or task.speed
        return Text(_rate(speed) if speed else "")


@dataclass
class _Lines:
    """What a log is told of one task: the first line after `LEAST` seconds.

    Attributes:
        done: Items that are done.
    """

    name: str
    total: int | None
    done: int
    say: Callable[[str], None]
    now: Callable[[], float]

    def __post_init__(self) -> None:
        self._begun = self._told_at = self.now()
        self._made, self._told = 0, self.done

    def __call__(self, count: int, note: str = "", *, kept: bool = False) -> None:
        """Some more items are done."""
        self.done += count
        self._made += 0 if kept else count
        silent = self.now() - self._told_at
        if silent < LEAST or self.done >= (self.total or math.inf):  # the stage's own line follows
            return
        first, enough = self._told_at == self._begun, (self.total or self._told) * SHARE
        if first or silent >= MOST or self.done - self._told >= enough:
            self.say(f"{self.name}: {', '.join(filter(None, (*self._parts(), note)))}")
            self._told_at, self._told = self.now(), self.done

    def _parts(self) -> Iterator[str]:
        yield f"{self.done:,} of {self.total:,}" if self.total else f"{self.done:,}"
        speed = self._made / (self.now() - self._begun)
        if speed:
            yield _rate(speed)
            if self.total:
                yield f"{duration((self.total - self.done) / speed)} left"


@dataclass
class Progress:
    """Where progress is shown.

    Attributes:
        speaks: Whether this process shows anything.
        console: Where to.
        now: The time in seconds.
    """

    speaks: bool = True
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    now: Callable[[], float] = time.monotonic

    @contextmanager
    def task(self, name: str, total: int | None, *, done: int = 0) -> Iterator[Advance]:
        """A task of `total` items, None if nobody knows; yields what tells that some are done, with a note."""
        if not (self.console.is_interactive or self.console.is_jupyter):
            yield _Lines(name, total, done, self.say, self.now)
            return
        columns = (TextColumn("{task.description:<10}"), BarColumn(24), MofNCompleteColumn(), _Rate())
        with Bars(
            *columns,
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
            disable=not self.speaks,
        ) as bars:
            bar = bars.add_task(name, total=total, completed=done, note="")

            def advance(count: int, note: str = "", *, kept: bool = False) -> None:
                bars.update(bar, advance=count, note=note)

            yield advance

    def say(self, line: str) -> None:
        """Print one line, whatever is in it, unless it is empty."""
        if self.speaks and line:
            self.console.print(legible(line), soft_wrap=True, markup=False)


def duration(seconds: float) -> str:
    """A time as a person says it."""
    for unit, size, most in (("s", 1, 90), ("min", 60, 90)):
        if seconds < size * most:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 3600:.1f} h"


def _rate(speed: float) -> str:
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"
