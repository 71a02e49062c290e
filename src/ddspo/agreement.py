"""What one process finds, all of them raise: otherwise the others would wait, and nobody would say why."""

from collections.abc import Callable

from accelerate.utils import gather_object

from ddspo.errors import InputError


def agree(check: Callable[[], object]) -> None:
    """Call on every process, each of which looks at its own share; what one of them finds is raised on all.

    Raises:
        InputError: The first fault.
    """
    try:
        check()
        found: list[str] = []
    except InputError as error:
        found = [str(error)]
    for line in gather_object(found):
        raise InputError(line)
