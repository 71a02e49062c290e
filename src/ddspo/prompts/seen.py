"""Remembers which of very many texts have been there."""

from hashlib import blake2b

import numpy as np

_RECENT = 1 << 19


class Seen:
    """A set of texts that keeps 8 bytes of each.

    Texts are known by 64 bits of a hash: of n texts, two different ones are taken for equal with a probability below
    n^2 / 2^65, which is 3e-6 for ten million.
    """

    def __init__(self) -> None:
        self._old = np.empty(0, np.uint64)
        self._recent: set[int] = set()

    def add(self, text: str) -> bool:
        """Add a text; returns whether it was new."""
        key = int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
        place = int(self._old.searchsorted(np.uint64(key)))
        if key in self._recent or (place < len(self._old) and self._old[place] == key):
            return False
        self._recent.add(key)
        if len(self._recent) == _RECENT:
            self._old = np.sort(np.concatenate([self._old, np.fromiter(self._recent, np.uint64)]))
            self._recent.clear()
        return True
