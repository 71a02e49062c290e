"""Work beside the work: the next items are prepared ahead, and results are put away behind."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")


class Behind:
    """Runs calls one after another in a thread of its own; at most `waiting` of them wait.

    An error of a call is raised by the next one, or at the end of the `with` block; what came after it is not done.
    """

    def __init__(self, waiting: int = 2) -> None:
        self._calls: queue.Queue[Callable[[], object] | None] = queue.Queue(waiting)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Behind":
        self._thread.start()
        return self

    def __call__(self, function: Callable[[], object]) -> None:
        """Have a call done; waits where too many wait already."""
        self._raise()
        self._calls.put(function)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._calls.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def _work(self) -> None:
        while (function := self._calls.get()) is not None:
            if self._error is None:
                try:
                    function()
                except BaseException as error:  # it is raised where the results are waited for
                    self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


def ahead(items: Iterable[T], waiting: int = 1) -> Iterator[T]:
    """The same items, the next `waiting` of them made in a thread while one is used; its errors are raised here."""
    made: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(waiting)
    stop = threading.Event()

    def put(value: tuple[T] | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                made.put(value, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def work() -> None:
        try:
            if all(put((item,)) for item in items):
                put(None)
        except BaseException as error:  # raised where the items are used
            put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while (value := made.get()) is not None:
            if isinstance(value, BaseException):
                raise value
            yield value[0]
    finally:
        stop.set()
