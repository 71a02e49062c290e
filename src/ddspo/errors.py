"""The kinds of error that are the user's to mend."""


class InputError(Exception):
    """Something that the user gave is wrong; the message is one line: what, where, and the mend."""


class Stopped(InputError):
    """A guard stopped a training run; the message is one line: what happened, what to try, what was kept."""
