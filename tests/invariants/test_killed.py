"""kill -9 at renames all over a run: whatever was being put into place, the end is as if nothing had happened."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
from interruptions import history

from ddspo import files
from ddspo.manifest import Manifest
from ddspo.recipe import load
from ddspo.run_folder import RunFolder
from ddspo.workflow import Workflow

RECIPE = """
name: run
model: {path: MODEL, backbone: sd}
prompts: PROMPTS
sample: {pairs: 4, steps: 1, guidance: 1.0, batch: 2}
train: {steps: 3, batch: 2, device_batch: 2, checkpoint_every: 1}
validation: {final: 2, steps: 1}
trackers: []
"""
FORK = multiprocessing.get_context("fork")
STRIDE = 3
SAME = ("prompts.jsonl", "pairs/**/*", "aligned/*.safetensors", "samples/**/*")
"""What ends as it does without a kill, to the byte."""


def run_until(path: Path, out: Path, number: int) -> None:
    """Run, and die like a killed process around a rename of that number: before it if that is even, or after it."""
    replace, done = os.replace, []

    def counted(*rest: Any) -> None:
        done.append(1)
        if len(done) == number and number % 2 == 0:
            os._exit(9)
        replace(*rest)
        if len(done) == number:
            os._exit(9)

    files.os.replace = counted  # type: ignore[attr-defined]
    Workflow.start(load(path, [f"out={out}"])).run()


def contents(run: RunFolder) -> dict[str, bytes]:
    found = (file for pattern in SAME for file in run.path.glob(pattern) if file.is_file())
    return {file.relative_to(run.path).as_posix(): file.read_bytes() for file in found}


@pytest.fixture
def path(tiny_folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("a red cube\ntwo cats\n")
    text = RECIPE.replace("MODEL", str(tiny_folder)).replace("PROMPTS", str(tmp_path / "prompts.txt"))
    (tmp_path / "recipe.yaml").write_text(text)
    return tmp_path / "recipe.yaml"


def test_a_run_that_is_killed_at_renames_ends_the_same(path: Path, tmp_path: Path) -> None:
    """Each start is killed a few renames later than the one before, and so somewhere else."""
    number, codes = 1, [9]
    while codes[-1] == 9:
        process = FORK.Process(target=run_until, args=(path, tmp_path / "killed", number))
        process.start()
        process.join(120)
        codes.append(process.exitcode or 0)
        number += STRIDE
    assert codes[-1] == 0
    assert len(codes) > 8
    Workflow.start(load(path, [f"out={tmp_path / 'whole'}"])).run()
    killed, whole = (RunFolder(tmp_path / name / "run") for name in ("killed", "whole"))
    assert contents(killed) == contents(whole)
    assert history(killed.log) == history(whole.log)
    assert not list(killed.path.rglob("*.partial"))
    assert all(Manifest(killed).is_whole(stage) for stage in ("degrade", "sample", "train", "report"))
