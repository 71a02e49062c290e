"""How the program ends where something goes wrong: one line, an exit code, and a file for what nobody expected."""

import errno
import os
import platform
import re
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from typer import Abort
from typer.core import TyperGroup

from ddspo.errors import Elsewhere, InputError, legible, shortened

UNEXPECTED, WRONG_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes."""
AGAIN = "run the same command again to continue"
_MENDS = {
    errno.ENOSPC: f"make room on that disk, then {AGAIN}",
    errno.EDQUOT: f"make room in your quota, then {AGAIN}",
    errno.EFBIG: f"files may not grow so large here (`ulimit -f`): allow more, then {AGAIN}",
    errno.EROFS: "the disk takes no writing: set `out` to another folder",
    errno.EACCES: "you may not: mend the permissions, or give another path",
    errno.EPERM: "you may not: mend the permissions, or give another path",
    errno.EMFILE: f"too many files are open (`ulimit -n`): allow more, then {AGAIN}",
    errno.ENFILE: f"too many files are open on this machine: {AGAIN}",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.EIO: f"the disk fails: look after it, then {AGAIN}",
    errno.ESTALE: f"the network's file system went away: {AGAIN}",
}
"""What helps where the system refuses."""
_MEMORY = (
    "lower train.device_batch, sample.batch, evaluate.batch or model.resolution, or set "
    f"train.gradient_checkpointing=true, then {AGAIN}"
)
_WAIT = 5.0
"""Seconds after one process's last word in which the others of a machine keep silent."""


class Failed(Exception):
    """Stands for its cause, and says in which run that happened."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        self.folder = folder


class Verbs(TyperGroup):
    """The commands; what typer would end in words of its own, `main` ends in this program's."""

    def invoke(self, ctx: Any) -> Any:
        """Run one."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, EOFError, OSError) as error:
            raise Failed(None) from error


class Ending(NamedTuple):
    """A line, empty where there is nothing to say, and an exit code."""

    line: str
    code: int


def ending(error: BaseException) -> Ending:
    """The end that an error means; the traceback of one that nobody expected goes to a file."""
    folder = None
    if isinstance(error, Failed) and error.__cause__:
        folder, error = error.folder, error.__cause__
    if isinstance(error, InputError):
        return Ending(str(error), WRONG_INPUT)
    if hasattr(error, "format_message"):  # typer's own, whose class moved with its releases
        return Ending(_usage(error), WRONG_INPUT)
    if isinstance(error, KeyboardInterrupt | EOFError | Abort):
        return Ending(f"interrupted{f'; {AGAIN}' if folder else ''}", INTERRUPTED)
    if isinstance(error, Elsewhere):
        return Ending("", UNEXPECTED)
    if isinstance(error, BrokenPipeError):
        return Ending("nobody reads the output any more: it ends here", UNEXPECTED)
    if _is_memory(error):
        return Ending(f"out of memory ({_said(error)}): {_MEMORY}", UNEXPECTED)
    mend = _MENDS.get(_number(error) or 0)
    if mend:
        return Ending(f"{_said(error)}: {mend}", UNEXPECTED)
    kept = _keep(error, folder)
    return Ending(f"not expected: {type(error).__name__}: {_said(error)}: {kept}", UNEXPECTED)


def end(error: BaseException) -> int:
    """Say what an error means, unless another process of this machine has just done so, and give the exit code."""
    line, code = ending(error)
    if line and _may_speak():
        with suppress(OSError, ValueError):  # nobody may read it any more
            print(f"ddspo: {line}", file=sys.stderr, flush=True)
    if isinstance(error, BrokenPipeError) or isinstance(error.__cause__, BrokenPipeError):
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered would fail at exit again
    return code


def _usage(error: Any) -> str:
    """What is wrong with a command line, and where its help is."""
    said = legible(error.format_message()).rstrip(".").replace(". Did", ": did")
    context = getattr(error, "ctx", None)
    return f"{said[:1].lower()}{said[1:]}: see `{context.command_path if context else 'ddspo'} --help`"


def _said(error: BaseException) -> str:
    """The first line of what an error says, with the file that it is about."""
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(shortened(str(each), 200) for each in (error.filename, error.strerror) if each)
    return shortened((str(error).strip() or "no message").splitlines()[0], 200)


def _is_memory(error: BaseException) -> bool:
    """Python's own, the accelerator's (whose class needs torch), or that of torch's memory on the processor."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in str(error) or "not enough mem" in str(error)
    )


def _number(error: BaseException) -> int | None:
    """The system's number of an error; safetensors, which is written in Rust, has it in its words."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _keep(error: BaseException, folder: Path | None) -> str:
    """Write the traceback into the run, or where temporary files go, and say where it is."""
    head = f"{' '.join(sys.argv)}\npython {platform.python_version()}, {platform.platform()}\n\n"
    text = head + "".join(traceback.format_exception(error))
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for place in (folder, Path(tempfile.gettempdir())):
        if place is not None and place.is_dir():
            with suppress(OSError):
                (place / name).write_text(text, encoding="utf-8", errors="backslashreplace")
                return f"please report it with {place / name}, which says where"
    where = traceback.extract_tb(error.__traceback__)[-1:]
    return f"please report it; it was at {''.join(f'{each.filename}:{each.lineno}' for each in where)}"


def _may_speak() -> bool:
    """Whether no other process of this launch has just had its say: they fail together, or one after the other."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    launch = f"{os.getppid()}-{os.environ.get('MASTER_PORT', '')}"
    path = Path(tempfile.gettempdir()) / f"ddspo-{launch}.said"
    try:
        if path.exists() and time.time() - path.stat().st_mtime > _WAIT:
            path.unlink(missing_ok=True)
        path.touch(exist_ok=False)
        return True
    except FileExistsError:
        return False
    except OSError:
        return True
