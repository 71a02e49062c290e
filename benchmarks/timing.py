"""How long something takes, for the other benchmarks."""

import time
from collections.abc import Callable


def seconds(function: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
