"""What a log is told of a long stage, by a clock that the test moves."""

from io import StringIO

import pytest
from rich.console import Console

from ddspo.progress import Progress, duration


class Clock:
    """A time that only the test moves, and a log."""

    def __init__(self, *, terminal: bool = False) -> None:
        self.time, self.text = 1000.0, StringIO()
        self.console = Console(file=self.text, force_terminal=terminal, force_interactive=terminal, width=60)

    def __call__(self) -> float:
        return self.time

    def said(self, total: int | None, each: float, items: int, *, done: int = 0, kept: int = 0) -> list[str]:
        """The lines of so many items, each of which takes so many seconds."""
        with Progress(console=self.console, now=self).task("sample", total, done=done) as advance:
            if kept:
                advance(kept, kept=True)
            for _ in range(items):
                self.time += each
                advance(1)
        return self.text.getvalue().splitlines()


def test_a_line_every_tenth() -> None:
    """1000 items of 0.5 s: the first line after 30 s, then every 100 items, which is every 50 s; none at the end."""
    lines = Clock().said(1000, 0.5, 1000)
    assert lines[:2] == ["sample: 60 of 1,000, 2.0/s, 8 min left", "sample: 160 of 1,000, 2.0/s, 7 min left"]
    assert [int(line.split()[1]) for line in lines] == list(range(60, 1000, 100))


def test_no_more_often_than_every_half_minute() -> None:
    """100 items of 1 s: a tenth takes 10 s, and a line comes every 30."""
    lines = Clock().said(100, 1.0, 100)
    assert lines == [f"sample: {done} of 100, 1.0/s, {100 - done} s left" for done in (30, 60, 90)]


def test_at_least_every_ten_minutes() -> None:
    """1000 items of 120 s: a tenth takes 200 min, so each line says five more; 995 x 2 min are 33.2 h."""
    lines = Clock().said(1000, 120.0, 11)
    assert lines == [
        "sample: 1 of 1,000, 120.0 s each, 33.3 h left",
        "sample: 6 of 1,000, 120.0 s each, 33.1 h left",
        "sample: 11 of 1,000, 120.0 s each, 33.0 h left",
    ]


def test_what_was_there_before_is_not_made() -> None:
    """500 are kept at once and 100 were done: the 60 made in 30 s are 2 a second, and 340 are left."""
    lines = Clock().said(1000, 0.5, 60, done=100, kept=500)
    assert lines == ["sample: 660 of 1,000, 2.0/s, 3 min left"]


def test_where_nobody_knows_the_whole() -> None:
    """A line for a tenth more than at the last one, half a minute at least: 330 + 33, and 363 + 36.3 rounded up."""
    lines = Clock().said(None, 1.0, 400)
    assert lines[:2] == ["sample: 30, 1.0/s", "sample: 60, 1.0/s"]
    assert [int(line.split()[1].strip(",")) for line in lines[-2:]] == [363, 400]


def test_who_does_not_speak_and_who_has_a_terminal() -> None:
    quiet, clock = StringIO(), Clock()
    with Progress(speaks=False, console=Console(file=quiet), now=clock).task("sample", 10) as advance:
        clock.time += 99
        advance(1)
    assert quiet.getvalue() == ""
    shown = "".join(Clock(terminal=True).said(10, 60.0, 5))
    assert "━" in shown
    assert "of 10" not in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (400000, "111.1 h")],
)
def test_times_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
