"""A run grows: more pairs, more updates; what stays, what goes on, what is made again, and what is refused."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from interruptions import history, killed_at
from safetensors.torch import load_file

from ddspo.errors import InputError
from ddspo.manifest import Manifest
from ddspo.pairs.layout import Layout, keep_layout, layout_of
from ddspo.pairs.store import PairStore
from ddspo.recipe import load
from ddspo.rows import read_json, read_rows
from ddspo.run_folder import RunFolder
from ddspo.workflow import Workflow

RECIPE = """
name: run
model: {path: MODEL, backbone: sd}
prompts: PROMPTS
sample: {pairs: 5, steps: 1, guidance: 1.0, batch: 2, shard: 2}
train: {steps: 4, batch: 2, device_batch: 2, checkpoint_every: 2, warmup: 2, lr: 1.0e-3}
validation: {final: 2, steps: 1}
trackers: []
"""


@pytest.fixture(scope="module")
def base(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run beside its recipe."""
    return finished(tmp_path_factory.mktemp("growth"), RECIPE, tiny_folder, "a red cube\ntwo cats\ndogs in rows\n")


@pytest.fixture
def place(base: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    shutil.copytree(base / "runs", tmp_path / "runs")
    return tmp_path


def finished(folder: Path, recipe: str, model: Path, prompts: str) -> Path:
    """A folder with a recipe and its prompts, and the run that it makes of them."""
    (folder / "prompts.txt").write_text(prompts)
    text = recipe.replace("MODEL", str(model)).replace("PROMPTS", str(folder / "prompts.txt"))
    (folder / "recipe.yaml").write_text(text)
    go(folder, folder)
    return folder


def go(base: Path, place: Path, *overrides: str, stages: tuple[str, ...] = ()) -> RunFolder:
    given = load(base / "recipe.yaml", [f"out={place / 'runs'}", *overrides])
    Workflow.start(given, first=stages[0] if stages else None).run(stages)
    return RunFolder(given.folder)


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(run.aligned / "pytorch_lora_weights.safetensors")


def same(one: RunFolder, other: RunFolder) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def shards(run: RunFolder) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in run.pairs.glob("*.parquet")}


def test_pairs_that_are_there_are_kept_to_the_byte(
    base: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five pairs are shards of 2, 2, 1; three more are 2, 1: the pairs of one made at once, in other shards.

    Training saw the five alone, so it starts anew, and ends as it would have with all eight from the beginning, but
    for rounding: the fifth was made in a batch of its own.
    """
    before, old = shards(RunFolder(place / "runs/run")), weights(RunFolder(place / "runs/run"))
    run = go(base, place, "sample.pairs=8")
    said = capsys.readouterr().err
    assert "sample: goes on from 5 pairs to 8" in said
    assert "train: starts anew on all pairs" in said
    assert before.items() <= shards(run).items()
    assert PairStore.open(run.pairs).sizes == [2, 2, 1, 2, 1]
    assert layout_of(run.pairs, Layout(1, 1)) == Layout(2, 2, (5, 8))
    whole = go(base, place / "whole", "sample.pairs=8")
    ours, theirs = (PairStore.open(each.pairs).take(range(8)) for each in (run, whole))
    assert ours.ids == theirs.ids
    for side, other in zip(ours.latents, theirs.latents, strict=True):
        torch.testing.assert_close(side, other, rtol=2e-3, atol=1e-4)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(run)[name], value, rtol=2e-3, atol=2e-5)
    assert not all(torch.equal(value, old[name]) for name, value in weights(run).items())
    assert all(Manifest(run).is_whole(stage) for stage in ("degrade", "sample", "train", "report"))


def test_more_updates_are_as_if_there_had_been_so_many(
    base: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beyond the warm-up the rate is constant, so that 4 and 3 updates are 7, to the bit; pictures are drawn again."""
    pictures = {path.name: path.read_bytes() for path in (place / "runs/run/samples/aligned").glob("*")}
    run = go(base, place, "train.steps=7")
    assert "train: goes on from 4 steps to 7" in capsys.readouterr().err
    whole = go(base, place / "whole", "train.steps=7")
    assert same(run, whole)
    assert history(run.log) == history(whole.log)
    assert read_rows(run.log)[:4] == read_rows(RunFolder(base / "runs/run").log)
    drawn = {path.name: path.read_bytes() for path in (run.samples / "aligned").glob("*")}
    assert drawn.keys() == pictures.keys()
    assert drawn != pictures
    assert read_json(run.report_json, "")["name"] == "run"


def test_more_of_both_goes_on_with_all_pairs(base: Path, place: Path) -> None:
    """The updates that were made stay; the next ones see pairs that came later."""
    run = go(base, place, "sample.pairs=8", "train.steps=8")
    assert read_rows(run.log)[:4] == read_rows(RunFolder(base / "runs/run").log)
    assert len(read_rows(run.log)) == 8
    assert len(PairStore.open(run.pairs)) == 8


def test_growing_may_be_interrupted(base: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And grow once more meanwhile."""
    with monkeypatch.context() as patch:
        killed_at(5, patch)
        with pytest.raises(KeyboardInterrupt):
            go(base, place, "train.steps=7")
    assert not RunFolder(place / "runs/run").aligned.exists()
    run = go(base, place, "train.steps=8")
    assert same(run, go(base, place / "whole", "train.steps=8"))


@pytest.mark.parametrize("option", ["sample.pairs=4", "train.steps=3", "sample.pairs=8 sample.steps=2"])
def test_less_or_something_else_is_refused(option: str, base: Path, place: Path) -> None:
    with pytest.raises(InputError, match=r"was begun with another (sample|train)\."):
        go(base, place, *option.split())
    assert (place / "runs/run/aligned").is_dir()


def test_a_schedule_that_has_ended_is_refused(base: Path, tmp_path: Path) -> None:
    run = go(base, tmp_path, "train.schedule=cosine")
    with pytest.raises(InputError, match=r"another train.steps \(a cosine schedule ends with its last update: only"):
        go(base, tmp_path, "train.schedule=cosine", "train.steps=7")
    assert run.aligned.is_dir()


def test_a_stage_alone_does_not_reach_back(base: Path, place: Path) -> None:
    with pytest.raises(InputError, match=r"^sample grows before train: run `ddspo sample` first, or `ddspo run`$"):
        go(base, place, "sample.pairs=8", stages=("train",))
    assert (place / "runs/run/aligned").is_dir()
    run = go(base, place, "sample.pairs=8", stages=("sample",))
    assert not run.aligned.exists()
    assert len(PairStore.open(run.pairs)) == 8


def test_a_layout_that_does_not_say_where_it_ended_does_not_grow(base: Path, place: Path) -> None:
    """Nobody would know which of its shards are short."""
    run = RunFolder(place / "runs/run")
    (run.pairs / "layout.json").unlink()
    keep_layout(run.pairs, Layout(2, 2))
    with pytest.raises(InputError, match=r"stage sample was begun with another sample\.pairs"):
        go(base, place, "sample.pairs=8")


def test_shards_of_a_store_that_grew_twice() -> None:
    """Shards of 4: 6 are 4, 2; up to 7 comes 1; up to 17 come 4, 4, 2. What is asked for now may be any of these."""
    layout = Layout(4, 2, (6, 7, 17))
    assert layout.sizes(17) == [4, 2, 1, 4, 4, 2]
    assert layout.sizes(7) == [4, 2, 1]
    assert Layout(4, 2).sizes(17) == [4, 4, 4, 4, 1]
    assert layout.until(17) is layout
    assert Layout(4, 2, (6,)).until(9).ends == (6, 9)
