"""The kinds of error that are the user's to mend."""


class InputError(Exception):
    """Something that the user gave is wrong; the message is one line: what, where, and the mend."""


class Stopped(InputError):
    """A guard stopped a training run; the message is one line: what happened, what to try, what was kept."""


def legible(text: str) -> str:
    """Anyone's text with control characters written out, which a terminal would obey."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
