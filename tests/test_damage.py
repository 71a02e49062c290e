"""What is damaged is named, made again where it can be, and never used: every file of a finished run, in four ways."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import DAMAGE, cut, flip
from interruptions import history, killed_at

from ddspo.errors import InputError
from ddspo.manifest import Manifest
from ddspo.recipe import load
from ddspo.run_folder import RunFolder
from ddspo.training.checkpoints import Checkpoints
from ddspo.workflow import Workflow

RECIPE = """
name: run
model: {path: MODEL, backbone: sd}
prompts: PROMPTS
sample: {pairs: 4, steps: 1, guidance: 1.0, batch: 2}
train: {steps: 4, batch: 2, device_batch: 2, checkpoint_every: 1}
validation: {final: 1, guidance: 1.0, steps: 1}
trackers: []
validation: {final: 2, steps: 1}
"""


MENDED = (
    "prompts.jsonl",
    "pairs/index.json",
    "pairs/layout.json",
    "aligned/pytorch_lora_weights.safetensors",
    "aligned/README.md",
    "log.jsonl",
    "samples/samples.jsonl",
    "samples/aligned/*",
    "report.html",
    "report.json",
    *(f"digests/{name}.json" for name in ("degrade", "sample", "train", "report")),
)
"""Files that a finished run has again, byte by byte, after the same command; a line says so."""


@pytest.fixture(scope="module")
def path(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage")
    (folder / "prompts.txt").write_text("a red cube\ntwo cats\n")
    text = RECIPE.replace("MODEL", str(tiny_folder)).replace("PROMPTS", str(folder / "prompts.txt"))
    (folder / "recipe.yaml").write_text(text)
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def finished(path: Path) -> RunFolder:
    """A whole run."""
    Workflow.start(load(path, [f"out={path.parent / 'runs'}"])).run()
    return RunFolder(path.parent / "runs" / "run")


@pytest.fixture
def run(finished: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of it."""
    shutil.copytree(finished.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def again(path: Path, run: RunFolder) -> None:
    Workflow.start(load(path, [f"out={run.path.parent}"])).run()


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", MENDED)
def test_a_finished_run_mends_itself(
    name: str, damage: Callable[[Path], None], path: Path, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    file = min(run.path.glob(name))
    before = file.read_bytes()
    damage(file)
    again(path, run)
    assert str(file) in capsys.readouterr().err
    assert file.read_bytes() == before or "report." in name  # whose seconds are others
    assert all(Manifest(run).is_whole(stage) for stage in Manifest(run).stages())


def test_a_picture_that_is_gone_is_drawn_again(path: Path, run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing that was made later from the weights is: these are the same."""
    picture = run.samples / "aligned" / "00000.png"
    before, digest = picture.read_bytes(), Manifest(run).result("train")
    picture.unlink()
    again(path, run)
    assert f"{picture}: missing: it is made again" in capsys.readouterr().err
    assert picture.read_bytes() == before
    assert Manifest(run).result("train") == digest


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda each: each.__name__)
def test_a_manifest_is_read_from_its_copy(damage: Callable[[Path], None], path: Path, run: RunFolder) -> None:
    known = Manifest(run).stages()
    damage(run.manifest)
    assert Manifest(run).stages() == known
    again(path, run)
    damage(run.path / ".manifest.json")
    assert Manifest(run).stages() == known


def test_without_any_manifest_nothing_is_guessed(path: Path, run: RunFolder) -> None:
    for file in (run.manifest, run.path / ".manifest.json"):
        flip(file)
    with pytest.raises(InputError, match=r"manifest.json: damaged, and so is .manifest.json: "):
        again(path, run)


@pytest.fixture(scope="module")
def killed(path: Path, finished: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that was killed in its fourth update."""
    run = RunFolder(tmp_path_factory.mktemp("killed") / "run")
    shutil.copytree(finished.path, run.path)
    Manifest(run).forget(["train", "report"])
    with pytest.MonkeyPatch.context() as patch:
        killed_at(3, patch)
        with pytest.raises(KeyboardInterrupt):
            again(path, run)
    return run


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda each: each.__name__)
@pytest.mark.parametrize("part", ["weights.safetensors", "optimizer.safetensors", "log.jsonl", "digests.json"])
def test_a_damaged_checkpoint_is_not_gone_on_from(
    part: str,
    damage: Callable[[Path], None],
    path: Path,
    finished: RunFolder,
    killed: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The one before it is; the end is the same to the byte. A log that was cut is put back from there too."""
    shutil.copytree(killed.path, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    newest = Checkpoints(run.checkpoints, keep=2).path(3)
    damage(newest / part)
    cut(run.log)
    Workflow.start(load(path, [f"out={tmp_path}"])).run(("train",))
    assert f"{newest}: " in capsys.readouterr().err
    aligned = "aligned/pytorch_lora_weights.safetensors"
    assert (run.path / aligned).read_bytes() == (finished.path / aligned).read_bytes()
    assert history(run.log) == history(finished.log)


def test_a_later_stage_does_not_use_what_is_damaged(path: Path, run: RunFolder) -> None:
    cut(run.prompts)
    with pytest.raises(InputError, match=r"prompts.jsonl: another than was written: `ddspo degrade` or `ddspo run`"):
        Workflow.start(load(path, [f"out={run.path.parent}"]), first="train")


def test_a_shard_that_is_gone_is_made_again(path: Path, finished: RunFolder, run: RunFolder) -> None:
    (run.pairs / "000001.parquet").unlink()
    again(path, run)
    assert (run.pairs / "000001.parquet").read_bytes() == (finished.pairs / "000001.parquet").read_bytes()


def test_what_dead_writers_left_is_tidied(path: Path, run: RunFolder) -> None:
    (run.path / ".log.jsonl.elsewhere.1.partial").write_text("half")
    (run.checkpoints / ".0000009.elsewhere.1.partial").mkdir()
    again(path, run)
    assert not list(run.path.rglob("*.partial"))
