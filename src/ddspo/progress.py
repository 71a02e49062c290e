"""Progress bars with rate and time left, and one line when a stage ends. Only the first process speaks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from ddspo.errors import legible

Advance = Callable[[int, str], None]


class _Rate(ProgressColumn):
    """Items a second, or seconds an item where there is less than one."""

    def render(self, task: Task) -> Text:
        """The rate of one task."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


@dataclass
class Progress:
    """Where progress is shown.

    Attributes:
        speaks: Whether this process shows anything.
        console: Where to.
    """

    speaks: bool = True
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))

    @contextmanager
    def task(self, name: str, total: int | None, *, done: int = 0) -> Iterator[Advance]:
        """A bar over `total` items, None if nobody knows; yields a function that advances it and shows a note."""
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

            def advance(count: int, note: str) -> None:
                bars.update(bar, advance=count, note=note)

            yield advance

    def say(self, line: str) -> None:
        """Print one line, whatever is in it, unless it is empty."""
        if self.speaks and line:
            self.console.print(legible(line), soft_wrap=True, markup=False)
