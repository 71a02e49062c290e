"""Four ways in which a file is damaged, for tests."""

from collections.abc import Callable
from pathlib import Path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE: tuple[Callable[[Path], None], ...] = (flip, cut, empty, Path.unlink)
