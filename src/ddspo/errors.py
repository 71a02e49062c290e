"""The kinds of error that are the user's to mend, and how anyone's text is told in a line."""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

LONGEST = 1200
"""Characters of a message: what is longer loses its middle, because what is wrong comes first and the mend last."""
QUOTED = 100
"""Characters of anyone's text or value in a message."""


class InputError(Exception):
    """Something that the user gave is wrong; the message is one line: what, where, and the mend."""

    def __init__(self, message: str) -> None:
        line = legible(message)
        half = LONGEST // 2
        super().__init__(line if len(line) <= LONGEST else f"{line[:half]} ... {line[-half:]}")


class Stopped(InputError):
    """A guard stopped a training run; the message is one line: what happened, what to try, what was kept."""


class Elsewhere(RuntimeError):
    """Another process failed, and says so itself."""


def legible(text: str) -> str:
    """Anyone's text with control characters written out, which a terminal would obey."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def quoted(value: Any, most: int = QUOTED) -> str:
    """A value as Python writes it, but printable, short, and at once, whatever its size or nesting."""
    return _Quotes(most).repr(value)


def shortened(text: str, most: int = QUOTED) -> str:
    """Anyone's text without quotes, printable, and without its middle where it is long."""
    line = text if len(text) <= most else f"{text[: most // 2]}...{text[-(most // 2) :]}"
    return legible(line)


def nearest(name: str, known: Iterable[str]) -> str:
    """': did you mean ...?', or the whole list where nothing is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f": did you mean {' or '.join(near)}?" if near else f": one of {', '.join(known)}"


class _Quotes(reprlib.Repr):
    def __init__(self, most: int) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, most, most
        self.maxlist = self.maxtuple = self.maxdict = 5

    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to write very long ones."""
        return repr(x) if x.bit_length() < 128 else f"<integer of {x.bit_length()} bits>"
