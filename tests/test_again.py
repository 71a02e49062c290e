"""The same command again: one at a time, with what may change, what may not, and what starts anew."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from diffusers import UNet2DConditionModel
from interruptions import history

from ddspo.errors import InputError
from ddspo.files import write_rows
from ddspo.lock import locked
from ddspo.manifest import Manifest
from ddspo.recipe import load
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.workflow import Workflow

RECIPE = """
name: run
model: {path: MODEL, backbone: sd}
prompts: PROMPTS
sample: {pairs: 4, steps: 1, guidance: 1.0, batch: 2}
train: {steps: 2, batch: 2, device_batch: 2, checkpoint_every: 1}
validation: {final: 0}
trackers: []
"""
FORK = multiprocessing.get_context("fork")
HOLDS = "import sys, time; from pathlib import Path; from ddspo.lock import locked\n"
HOLDS += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"


@pytest.fixture(scope="module")
def base(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run beside its recipe, its prompts and its model."""
    folder = tmp_path_factory.mktemp("again")
    shutil.copytree(tiny_folder, folder / "model")
    (folder / "prompts.txt").write_text("a red cube\ntwo cats\n")
    text = RECIPE.replace("MODEL", str(folder / "model")).replace("PROMPTS", str(folder / "prompts.txt"))
    (folder / "recipe.yaml").write_text(text)
    start(folder).run()
    return folder


@pytest.fixture
def place(base: Path, tmp_path: Path) -> Path:
    """A folder of one's own, with the run in it; model and prompts are those of the original."""
    shutil.copytree(base / "runs", tmp_path / "runs")
    shutil.copy(base / "recipe.yaml", tmp_path / "recipe.yaml")
    return tmp_path


def start(folder: Path, *overrides: str, **options: Any) -> Workflow:
    return Workflow.start(load(folder / "recipe.yaml", [f"out={folder / 'runs'}", *overrides]), **options)


def run_of(folder: Path) -> RunFolder:
    return RunFolder(folder / "runs" / "run")


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lock of the folder."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_who_is_inside_is_named_and_a_dead_owner_is_nobody(holder: "subprocess.Popen[str]", tmp_path: Path) -> None:
    line = rf"in use by process {holder.pid} on \S+ since 20.*: wait for its end"
    with pytest.raises(InputError, match=line), locked(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(fd: int) -> bool:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("filelock._unix.lock_fd_nonblocking", none)
    with pytest.raises(InputError, match="its file system keeps no locks"), locked(tmp_path):
        pass


def run_it(folder: Path, found: Any) -> None:
    try:
        start(folder).run()
        found.put("")
    except InputError as error:
        found.put(str(error))


def test_of_two_at_once_one_gets_a_line_and_the_other_a_whole_run(base: Path, tmp_path: Path) -> None:
    shutil.copy(base / "recipe.yaml", tmp_path / "recipe.yaml")
    found = FORK.SimpleQueue()
    processes = [FORK.Process(target=run_it, args=(tmp_path, found)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    said = sorted(found.get() for _ in processes)
    assert said[0] == ""
    assert "in use by " in said[1]
    assert history(run_of(tmp_path).log) == history(run_of(base).log)
    assert Manifest(run_of(tmp_path)).is_whole("train")


FREE = (
    "sample.batch=1",
    "train.device_batch=1",
    "train.encode=during",
    "train.window=0.5",
    "train.keep=5",
    "train.checkpoint_every=2",
    "train.gradient_checkpointing=true",
    "train.guards.start=0.4",
    "trackers=[tensorboard]",
)


def test_what_changes_no_result_may_change_at_any_time(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(place, *FREE).run()
    said = capsys.readouterr().err
    assert all(f"{name:<9} kept" in said for name in ("degrade", "sample", "train", "report"))


def test_sampling_goes_on_with_another_batch(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in its second batch; the shards are those of the first recipe, to the byte."""
    shutil.copy(base / "recipe.yaml", tmp_path / "recipe.yaml")
    from ddspo.sampling import samples

    batch, calls = samples._batch, []

    def killed(*rest: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return batch(*rest)

    with monkeypatch.context() as patch:
        patch.setattr(samples, "_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path).run(("degrade", "sample"))
    start(tmp_path, "sample.batch=1").run(("degrade", "sample"))
    ours, theirs = (
        {path.name: path.read_bytes() for path in run_of(each).pairs.iterdir()} for each in (tmp_path, base)
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("override", "stage", "key"),
    [
        ("seed=1", "degrade", "seed"),
        ("degradation.remove_words.most=0.8", "degrade", "degradation.remove_words.most"),
        ("sample.steps=2", "sample", "sample.steps"),
        ("model.resolution=32", "sample", "model.resolution"),
        ("train.lr=1e-5", "train", "train.lr"),
        ("objective.logistic.beta=5", "train", "objective.logistic.beta"),
    ],
)
def test_a_change_names_the_first_stage_that_depends_on_it(override: str, stage: str, key: str, place: Path) -> None:
    with pytest.raises(InputError, match=f"stage {stage} was begun with another {key}: choose .*`ddspo {stage}`"):
        start(place, override)


def test_fresh_begins_where_a_change_reaches(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(place)
    pairs = {path: path.stat().st_mtime_ns for path in run.pairs.iterdir()}
    log = run.log.read_text()
    start(place, "train.lr=1e-5", fresh=True).run()
    assert {path: path.stat().st_mtime_ns for path in run.pairs.iterdir()} == pairs
    assert run.log.read_text() != log
    start(place, "train.lr=1e-5", fresh=True).run()
    assert "--fresh: nothing has changed" in capsys.readouterr().err


def test_nothing_is_thrown_away_for_prompts_that_cannot_be_read(place: Path) -> None:
    (place / "bad.jsonl").write_text("{\n")
    with pytest.raises(InputError, match=r"bad\.jsonl:1: not JSON"):
        start(place, f"prompts={place / 'bad.jsonl'}", fresh=True)
    assert Manifest(run_of(place)).is_whole("train")


def test_a_stage_that_is_asked_for_by_name_begins_anew(place: Path) -> None:
    start(place, fresh=True, first="sample")
    assert run_of(place).prompts.exists()
    assert not run_of(place).pairs.exists()
    assert list(Manifest(run_of(place)).stages()) == ["degrade"]


def test_long_work_is_not_thrown_away_without_a_word(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = Manifest(run_of(place))
    manifest._record("sample", manifest.stages()["sample"] | {"seconds": 7200.0})
    with pytest.raises(InputError, match="nothing was thrown away"):
        start(place, "seed=1", fresh=True, sure=lambda question: "sample (120 min)" not in question)
    assert "by sample (120 min)" in capsys.readouterr().err
    assert run_of(place).pairs.exists()
    start(place, "seed=1", fresh=True)
    assert not run_of(place).pairs.exists()


def test_votes_are_kept_aside(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(place)
    write_rows(run.votes, [{"id": "x"}])
    start(place, "train.lr=1e-5", fresh=True)
    assert not run.votes.exists()
    assert read_rows(run.path / "votes-1.jsonl") == [{"id": "x"}]
    assert f"kept as {run.path / 'votes-1.jsonl'}" in capsys.readouterr().err


def test_other_weights_under_the_same_path_are_another_model(
    base: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(base / "model", place / "model")
    text = (place / "recipe.yaml").read_text().replace(str(base / "model"), str(place / "model"))
    (place / "recipe.yaml").write_text(text)
    run = run_of(place)
    manifest = Manifest(run)
    for name in ("sample", "train"):  # the same files elsewhere are the same model, and the name is another
        entry = manifest.stages()[name]
        entry["settings"]["model"]["path"] = str(place / "model")
        manifest._record(name, entry)
    start(place).run()
    unet = UNet2DConditionModel.from_pretrained(place / "model" / "unet")
    unet.conv_in.weight.data.mul_(1.5)
    unet.save_pretrained(place / "model" / "unet")
    with pytest.raises(InputError, match=r"stage sample was begun with another files of model\.path"):
        start(place)


def test_what_an_older_release_did_not_write_has_its_default(place: Path) -> None:
    manifest = Manifest(run_of(place))
    train, sample = manifest.stages()["train"], manifest.stages()["sample"]
    for key in ("average", "warmup"):
        del train["settings"]["train"][key]
    del (
        train["settings"]["on_policy"],
        sample["settings"]["files of model.path"],
        sample["settings"]["sample"]["states"],
    )
    train["settings"]["train"]["gone"] = 3
    for name, entry in (("train", train), ("sample", sample)):
        manifest._record(name, {key: value for key, value in entry.items() if key not in ("digest", "inputs")})
    start(place).run()
    with pytest.raises(InputError, match=r"stage train was begun with another train\.average: "):
        start(place, "train.average=0.9")


def test_a_stage_that_left_nothing_has_not_begun(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It failed before it made anything, so that what made it fail may be changed."""
    shutil.copy(base / "recipe.yaml", tmp_path / "recipe.yaml")

    def refuse(*rest: Any) -> None:
        raise InputError("too little memory")

    with monkeypatch.context() as patch:
        patch.setattr("ddspo.jobs.sample", refuse)
        with pytest.raises(InputError, match="too little memory"):
            start(tmp_path).run()
    start(tmp_path, "sample.steps=2").run(("sample",))
    with pytest.raises(InputError, match=r"stage sample was begun with another sample\.steps"):
        start(tmp_path)


def test_a_stage_that_was_made_of_something_else_is_refused(place: Path) -> None:
    manifest = Manifest(run_of(place))
    manifest._record("train", manifest.stages()["train"] | {"inputs": {"sample": "0" * 64}})
    with pytest.raises(InputError, match="stage train was begun with another result of sample: "):
        start(place)
