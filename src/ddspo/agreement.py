"""What goes wrong on one process, all of them raise: otherwise the others would wait, and nobody would say why."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

from ddspo.errors import Elsewhere, InputError

T = TypeVar("T")


def agree(work: Callable[[], T]) -> T:
    """Call on every process, each of which does its own share, and wait for all; gives the own share's result.

    `work` must not itself wait for other processes.

    Raises:
        InputError: The first fault of the user's that any process found.
        Elsewhere: Another process failed otherwise; where it failed, its own error is raised.
    """
    done: list[T] = []
    own: list[Exception] = []
    try:
        done.append(work())
    except Exception as error:  # it is raised below, on all processes
        own.append(error)
    found = gather_object([(isinstance(fault, InputError), _line(fault)) for fault in own])
    for fault in own:
        raise fault
    for expected, line in sorted(found, key=lambda each: not each[0]):
        raise InputError(line) if expected else Elsewhere(line)
    return done[0]


def alone(work: Callable[[], object]) -> None:
    """Call on the first process, while the others wait for it; what goes wrong there, all raise."""
    agree(work if PartialState().is_main_process else lambda: None)


def _line(error: Exception) -> str:
    """What an error says; one that was not expected with its type and process."""
    if isinstance(error, InputError):
        return str(error)
    text = (str(error).strip() or "no message").splitlines()[0]
    return f"process {PartialState().process_index}: {type(error).__name__}: {text}"
