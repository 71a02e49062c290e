"""One command at a time: a lock that the operating system takes back when its holder dies, however it dies."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ddspo.errors import InputError

NAME = ".lock"
MEND = "wait for its end, or choose another name=..."
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def locked(folder: Path, name: str = NAME, mend: str = MEND) -> Iterator[None]:
    """Inside, no other process that asks is inside too; the file says who is: host, process and since when.

    The lock is that of `flock`, which network file systems carry as well (NFS since Linux 2.6.12), so that a dead
    owner's lock is nobody's: there is nothing to take over.

    Raises:
        InputError: Somebody is inside, or the file system keeps no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{folder}: in use by {_said(folder / name)}: {mend}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise InputError(
            f"{folder}: its file system keeps no locks, so that two commands could spoil one run: "
            "choose another folder with out=..."
        ) from None
    try:
        (folder / name).write_text(json.dumps(_owner()), encoding="utf-8")
        yield
    finally:
        lock.release()


def _owner() -> dict[str, str | int]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}


def _said(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is being written
        return "another process"
