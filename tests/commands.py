"""`ddspo` as it is typed, in processes of its own that are forked from one which has imported everything.

To import takes longer than a small run. What is forked has read none of a run, and no test: it differs from a fresh
process in the seed of its hashes alone. `launched` starts fresh ones.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "TOKENIZERS_PARALLELISM": "false",
    "COLUMNS": "200",
}
PATIENCE = 500
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *("ddspo.cli", "ddspo.workflow", "ddspo.align.command", "ddspo.stages.degrade_report", "pandas", "pytest"),
        *("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "torch.utils.tensorboard"),
    ]
)


class Said(NamedTuple):
    """What a command printed."""

    out: str
    err: str


def run(arguments: Sequence[str], processes: int = 1, *, code: int = 0, folder: Path = ROOT) -> Said:
    """Run a command to its end, by as many processes as one launch has, and look at how each of them ends."""
    with tempfile.TemporaryDirectory() as place:
        begun = begin(arguments, processes, folder=folder, said=Path(place))
        _wait(begun)
        said = Said(
            *("".join(path.read_text() for path in sorted(Path(place).glob(f"*.{kind}"))) for kind in Said._fields)
        )
        assert [process.exitcode for process in begun] == [code] * processes, said.err[-3000:]
    return said


def interrupt(arguments: Sequence[str], when: Callable[[], bool], how: signal.Signals) -> int:
    """Send a signal to a command as soon as something is there; how it ends."""
    (process,) = begin(arguments)
    while not when():
        assert process.is_alive(), "finished before it could be interrupted"
        time.sleep(0.002)
    assert process.pid
    os.kill(process.pid, how)
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def launched(arguments: Sequence[str]) -> None:
    """Run a command by two fresh processes, as torchrun starts them."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}", "-m", "ddspo"]
    done = subprocess.run(
        [sys.executable, *launcher, *arguments],
        **{"capture_output": True, "text": True, "cwd": ROOT, "env": os.environ | ENVIRONMENT, "timeout": PATIENCE},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def begin(
    arguments: Sequence[str], processes: int = 1, *, folder: Path = ROOT, said: Path | None = None
) -> list[BaseProcess]:
    """Start the processes of a launch; what each says goes to a file of its rank, or nowhere."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    begun: list[BaseProcess] = []
    for rank in range(processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes)} | address
        environment = dict(os.environ) | ENVIRONMENT | (place if processes > 1 else {})
        files = [str(said / f"{rank}.{kind}") if said else os.devnull for kind in Said._fields]
        begun.append(SERVER.Process(target=_inside, args=(list(map(str, arguments)), environment, str(folder), files)))
        begun[-1].start()
    return begun


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _inside(arguments: list[str], environment: dict[str, str], folder: str, files: list[str]) -> None:
    """The command, in the process that was forked."""
    import numpy as np

    from ddspo.__main__ import main

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    np.random.seed()  # as in a fresh process; `random` does so by itself
    sys.argv = ["ddspo", *arguments]
    main()


def _wait(processes: Sequence[BaseProcess]) -> None:
    """Wait for all; where they hang, or one has failed and another waits for it, end them."""
    end = time.monotonic() + PATIENCE
    while any(process.is_alive() for process in processes) and time.monotonic() < end:
        if any(process.exitcode for process in processes):
            end = min(end, time.monotonic() + 30)
        for process in processes:
            process.join(0.02)
    for process in processes:
        process.kill()
        process.join()
