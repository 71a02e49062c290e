"""kill -9 at random moments while two processes sample: nothing is lost, and the end is the same to the byte."""

import multiprocessing
import os
import random
import shutil
import socket
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import yaml

from ddspo import recipe
from ddspo.pairs.shards import digest
from ddspo.pairs.writer import read_index
from ddspo.workflow import Workflow

PROCESSES, KILLS = 2, 10
PARTS = 2
FORK = multiprocessing.get_context("fork")


def work(rank: int, port: int, path: Path, out: Path) -> None:
    """What `torchrun --nproc_per_node 2 -m ddspo sample` runs; forked, so that the imports are paid for once."""
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES, "LOCAL_WORLD_SIZE": PROCESSES}
    os.environ |= {name: str(value) for name, value in where.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    Workflow.start(recipe.load(path, [f"out={out}"])).run(("degrade", "sample"))


def start(path: Path, out: Path) -> list[BaseProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [FORK.Process(target=work, args=(rank, port, path, out)) for rank in range(PROCESSES)]
    for process in processes:
        process.start()
    return list(processes)


def finish(path: Path, out: Path) -> dict[str, bytes]:
    processes = start(path, out)
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    return {file.name: file.read_bytes() for file in (out / "killed" / "pairs").iterdir()}


def whole(folder: Path) -> dict[str, str]:
    """Shards that are what the index says."""
    entries = read_index(folder)
    files = [folder / name for name, entry in entries.items() if (folder / name).exists()]
    return {
        file.name: digest(file.read_bytes()) for file in files if digest(file.read_bytes()) == entries[file.name][1]
    }


def batches(folder: Path) -> int:
    """How many batches are there, merged or not."""
    shards = {path.stem for path in folder.glob("[0-9]*.parquet")}
    parts = [path for path in folder.glob(".parts/*.parquet") if path.name.split("-")[0] not in shards]
    return PARTS * len(shards) + len(parts)


@pytest.fixture
def path(tiny_folder: Path, tmp_path: Path) -> Path:
    """64 pairs in batches of 2, which are 16 shards of 2 batches."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"a {letter}\n" for letter in "bcdefgh"))
    tree = {
        "name": "killed",
        "model": {"path": str(tiny_folder)},
        "prompts": str(prompts),
        "sample": {"pairs": 64, "batch": 2, "steps": 2, "guidance": 2.0},
        "trackers": [],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "recipe.yaml"


def test_ten_kills_lose_nothing(path: Path, tmp_path: Path) -> None:
    """Before the first batch, between batches and within one; the other process is killed a little later.

    A finished run that is asked to sample again makes what is damaged again, and nothing else.
    """
    expected = finish(path, tmp_path / "whole")
    assert sorted(expected) == [*(f"{number:06d}.parquet" for number in range(16)), "index.json", "layout.json"]
    out, draw, kills = tmp_path / "out", random.Random(0), 0
    folder = out / "killed" / "pairs"
    while kills < KILLS:
        before, had = whole(folder) if folder.exists() else {}, batches(folder)
        processes = start(path, out)
        goal = had + draw.randrange(6)
        while batches(folder) < goal and processes[0].is_alive():
            time.sleep(0.002)
        time.sleep(draw.random() * 0.05)
        for process in draw.sample(processes, PROCESSES):
            process.kill()
            time.sleep(draw.random() * 0.02)
        for process in processes:
            process.join()
        if any(process.exitcode == 0 for process in processes):  # it was through: begin anew
            shutil.rmtree(out)
            continue
        kills += 1
        if folder.exists():
            assert before.items() <= whole(folder).items()
            assert batches(folder) >= had
    assert finish(path, out) == expected
    damaged = folder / "000003.parquet"
    damaged.write_bytes(expected["000003.parquet"].replace(b"PAR1", b"PAR0"))
    assert finish(path, out) == expected
