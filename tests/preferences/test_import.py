"""From a preference dataset to pairs/, through the workflow and through the command line."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate import Accelerator
from preference_files import encoded, latent, lines, official, pick_a_pic, picture, save

from ddspo import components
from ddspo.backbones.base import Backbone, Model
from ddspo.backbones.sd import SD
from ddspo.errors import InputError
from ddspo.manifest import Manifest
from ddspo.pairs.store import PairStore
from ddspo.progress import Progress
from ddspo.recipe import load
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.stages import import_pairs as stage
from ddspo.stages.import_pairs import Dataset, import_pairs
from ddspo.workflow import Workflow


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return SD.tiny()


def dataset(source: Path, kind: object, **more: Any) -> Dataset:
    return components.construct(Dataset, {"source": str(source), "format": kind, **more}, "dataset")


def imported(run: RunFolder, backbone: Backbone, given: Dataset) -> RunFolder:
    import_pairs(run, backbone, given, Model("tiny"), Accelerator(), Progress())
    return run


def rows_of(run: RunFolder) -> list[dict[str, Any]]:
    return [row for path in sorted(run.pairs.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def content(run: RunFolder) -> dict[str, bytes]:
    """Every file that an import leaves."""
    return {str(path.relative_to(run.path)): path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


def table(folder: Path, pairs: int) -> Path:
    """PNG images 2 n and 2 n + 1 are the winner and the loser of row n."""
    for number in range(2 * pairs):
        save(folder / f"{number}.png", number)
    names = [(f"{2 * number}.png", f"{2 * number + 1}.png") for number in range(pairs)]
    rows = [{"prompt": f"prompt {n}", "chosen": win, "rejected": lose} for n, (win, lose) in enumerate(names)]
    return lines(folder / "t.jsonl", rows)


def test_latents_are_those_of_the_images(backbone: Backbone, tmp_path: Path) -> None:
    """Each side is what `to_latents` gives of its image, to half precision; prompts and places come along."""
    run = imported(RunFolder(tmp_path / "run"), backbone, dataset(table(tmp_path / "set", 5), "table", batch=2))
    store = PairStore.open(run.pairs)
    store.verify(backbone.latent_shape)
    data = store.take(range(5))
    assert list(data.prompts) == [f"prompt {number}" for number in range(5)]
    assert list(data.ids) == [f"{number:08d}" for number in range(5)]
    assert data.degraded is None
    for side, first in (("win", 0), ("lose", 1)):
        images = [np.asarray(picture(2 * number + first)) for number in range(5)]
        expected = backbone.to_latents(images)
        torch.testing.assert_close(getattr(data.latents, side).float(), expected, rtol=1e-3, atol=2e-3)
    assert [row["place"] for row in rows_of(run)] == [f"t.jsonl:{number}" for number in range(1, 6)]
    assert {(row["model"], row["dtype"]) for row in rows_of(run)} == {("tiny", "fp32")}
    assert read_rows(run.left_out) == []


def test_everything_is_counted_and_named(
    backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of twelve rows are pairs: the first, and the last, which has its images with another winner."""
    folder = tmp_path / "set"
    path = table(folder, 1)
    (folder / "broken.png").write_bytes(encoded(7)[:200])
    save(folder / "narrow.png", 8, width=90, height=20)
    save(folder / "small.png", 9, width=9, height=9)
    sides = (
        *(("0.png", "1.png"), ("0.png", "0.png"), ("0.png", "broken.png"), ("gone\x1b[2J.png", "0.png")),
        *(("../secret.png", "0.png"), ("narrow.png", "0.png"), ("0.png", "small.png"), ("./0.png", "1.png")),
        *(("0.png", "1.png"), ("1.png", "0.png")),
    )
    rows = [{"prompt": "prompt 0", "chosen": win, "rejected": lose} for win, lose in sides]
    others = [{"prompt": "", "chosen": "0.png", "rejected": "1.png"}, {"prompt": "x"}]
    lines(path, [*rows[:-1], *others, rows[-1]])
    run = imported(RunFolder(tmp_path / "run"), backbone, dataset(path, "table", smallest=10))
    assert [row["place"] for row in rows_of(run)] == ["t.jsonl:1", "t.jsonl:12"]
    left_out = read_rows(run.left_out)
    assert Counter(row["reason"] for row in left_out) == {
        **{"duplicate": 2, "one image on both sides": 1, "broken": 1, "missing file": 1, "too narrow": 1},
        **{"path that leaves the folder": 1, "too small": 1, "no prompt": 1, "wrong columns": 1},
    }
    detail = {row["place"]: row["detail"] for row in left_out}
    assert detail["t.jsonl:4"] == "'gone\\x1b[2J.png'"
    assert detail["t.jsonl:6"] == "90 x 20"
    said = capsys.readouterr().err
    assert f"import: 2 pairs of 12 rows; {run.left_out} names the others" in said
    assert "import: 1 broken: t.jsonl:3\n" in said
    assert "import: 2 duplicate: t.jsonl:8, t.jsonl:9\n" in said
    assert not run.importing.exists()


class Killed(BaseException):
    """Stands in for a signal: nothing catches it."""


def kills(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Die as soon as so many more files were renamed into place."""
    left = count

    def replace(source: object, target: object, real: Any = os.replace) -> None:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        real(source, target)

    monkeypatch.setattr("ddspo.files.os.replace", replace)


def some(folder: Path) -> Path:
    """Nine rows of which five are pairs: in parts of two and shards of four they make two shards."""
    path = table(folder, 5)
    good = path.read_text().splitlines(keepends=True)
    (folder / "broken.png").write_bytes(b"x")
    bad = [good[0].replace("0.png", "broken.png"), "{\n", good[0], good[1].replace("2.png", "../x")]
    path.write_text("".join([*good[:3], *bad, *good[3:]]))
    return path


def test_an_import_that_was_killed_goes_on(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before every single file that it writes, and started again each time: the same bytes, and none twice."""
    given = dataset(some(tmp_path / "set"), "table", batch=2, shard=4)
    whole = content(imported(RunFolder(tmp_path / "whole"), backbone, given))
    assert [path for path in sorted(whole) if path.endswith("parquet")] == [
        "pairs/000000.parquet",
        "pairs/000001.parquet",
    ]
    run, deaths = RunFolder(tmp_path / "run"), 0
    while True:
        with monkeypatch.context() as patch:
            kills(patch, 2)
            try:
                imported(run, backbone, given)
                break
            except Killed:
                deaths += 1
    assert deaths > 4
    assert content(run) == whole
    encodings = []
    monkeypatch.setattr(SD, "to_latents", lambda self, images: encodings.append(images))
    assert content(imported(run, backbone, given)) == whole
    assert encodings == []


def test_processes_take_turns(backbone: Backbone, tmp_path: Path) -> None:
    """Two writers, each with its shards, leave together what one leaves."""
    given = dataset(some(tmp_path / "set"), "table", batch=2, shard=4)
    whole = content(imported(RunFolder(tmp_path / "whole"), backbone, given))
    run = RunFolder(tmp_path / "run")
    for process in (1, 0):
        origin = stage.origin_of_import(backbone, given, Model("tiny"))
        writer = stage.PairWriter(run.pairs, origin, process)
        assert stage.Importer(run, backbone, given, writer, process, 2).run_all(lambda count, note: None) == 2
    assert content(imported(run, backbone, given)) == whole


def test_a_dataset_that_changed(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was imported of other rows is not mixed with these, nor what was made with other settings."""
    path, run = some(tmp_path / "set"), RunFolder(tmp_path / "run")
    given = dataset(path, "table", batch=2, shard=4)
    with monkeypatch.context() as patch:
        kills(patch, 4)
        with pytest.raises(Killed):
            imported(run, backbone, given)
    text = path.read_text()
    path.write_text(text.replace("prompt 1", "prompt one"))
    with pytest.raises(InputError, match="has other rows than when this import was begun: start again with"):
        imported(run, backbone, given)
    path.write_text(text)
    imported(run, backbone, given)
    with pytest.raises(InputError, match="made with another dataset"):
        imported(run, backbone, dataset(path, "table", batch=2, shard=4, resize="stretch"))


def test_a_damaged_shard_is_imported_again(
    backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = dataset(some(tmp_path / "set"), "table", batch=2, shard=4)
    run = imported(RunFolder(tmp_path / "run"), backbone, given)
    whole = content(run)
    path = run.pairs / "000000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert content(imported(run, backbone, given)) == whole
    assert "000000.parquet: its checksum is not that of index.json" in capsys.readouterr().err


def test_the_first_so_many(backbone: Backbone, tmp_path: Path) -> None:
    run = imported(
        RunFolder(tmp_path / "run"), backbone, dataset(table(tmp_path / "set", 5), "table", batch=2, pairs=3)
    )
    assert [row["prompt"] for row in rows_of(run)] == ["prompt 0", "prompt 1", "prompt 2"]


def test_no_pair_at_all(backbone: Backbone, tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", [{"prompt": "a", "chosen": "0.png", "rejected": "1.png"}] * 3)
    with pytest.raises(
        InputError, match=r"no row gives a pair \(2 duplicate, 1 missing file\): .*left_out.jsonl names"
    ):
        imported(RunFolder(tmp_path / "run"), backbone, dataset(path, "table"))


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
def test_shapes(resize: str, backbone: Backbone, tmp_path: Path) -> None:
    """A wide image, its left half black and its right half white, as a square: black beside white in each way.

    Cropped and stretched the middle column is the border; padded, the edges go on above and below.
    """
    wide = np.repeat(np.array([[[0]], [[255]]], np.uint8), 40, 1).reshape(1, 80, 1).repeat(40, 0).repeat(3, 2)
    fitted = backbone.fit(wide, resize)  # type: ignore[arg-type]
    side = backbone.call["height"]
    assert fitted.shape == (side, side, 3)
    assert fitted[:, : side // 2 - 4].max() < 40
    assert fitted[:, side // 2 + 4 :].min() > 215


def test_official_latents(backbone: Backbone, tmp_path: Path) -> None:
    """Latents of the release are taken as they are, with their degraded prompts; another model's are refused."""
    shape = backbone.latent_shape
    run = imported(
        RunFolder(tmp_path / "run"), backbone, dataset(official(tmp_path / "a", [{}] * 3, shape), "official_latents")
    )
    data = PairStore.open(run.pairs).take(range(3))
    assert list(data.degraded or ()) == ["worse 0", "worse 1", "worse 2"]
    assert torch.equal(data.latents.win[2], latent(4, shape))
    assert torch.equal(data.latents.lose[2], latent(5, shape))
    other = dataset(official(tmp_path / "b", [{}] * 3, (16, 4, 4)), "official_latents")
    with pytest.raises(InputError, match=r"its latents are \[16, 4, 4\], and this model's are"):
        imported(RunFolder(tmp_path / "other"), backbone, other)


def test_a_dataset_of_the_hub(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A streamed dataset with decoded images comes through as bytes; what goes wrong on the way is one line."""
    import datasets

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(2):
            yield {"prompt": f"p{number}", "chosen": picture(2 * number), "rejected": picture(2 * number + 1)}

    kinds = {"prompt": datasets.Value("string"), "chosen": datasets.Image(), "rejected": datasets.Image()}
    stream = datasets.IterableDataset.from_generator(rows, features=datasets.Features(kinds))
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **named: asked.append((args, named)) or stream)
    monkeypatch.chdir(tmp_path)
    given = dataset(Path("owner/name"), {"table": {"split": "test"}})
    run = imported(RunFolder(tmp_path / "run"), backbone, given)
    assert asked == [(("owner/name",), {"split": "test", "streaming": True})]
    data = PairStore.open(run.pairs).take([1])
    expected = backbone.to_latents([np.asarray(picture(2))])
    torch.testing.assert_close(data.latents.win.float(), expected, rtol=1e-3, atol=2e-3)
    assert rows_of(run)[1]["place"] == "owner/name:1"
    monkeypatch.undo()
    with pytest.raises(InputError, match="the hub did not give its test"):
        given.format.check("owner/name")


def recipe(folder: Path, model: Path, given: dict[str, Any], **more: Any) -> Path:
    tree = {
        "name": "run",
        "out": str(folder / "runs"),
        "model": {"path": str(model)},
        "policy_pair": "data_driven",
        "dataset": given,
        "pretrain": {"train": {"steps": 1, "batch": 2, "device_batch": 2}},
        "train": {"steps": 2, "batch": 2, "device_batch": 2},
        "validation": {"final": 1, "steps": 1},
        **more,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_a_data_driven_run(tiny_folder: Path, tmp_path: Path) -> None:
    """`ddspo import`, then all the rest, on Pick-a-Pic: winner and loser learn from it, and the policy from them."""
    source = pick_a_pic(tmp_path / "set", [{}, {"label_0": 0.5, "label_1": 0.5}, {}, {}, {"jpg_0": b"x"}])
    path = recipe(tmp_path, tiny_folder, {"source": str(source), "format": "pick_a_pic"})
    command = [sys.executable, "-m", "ddspo", "import", str(path), "dataset.batch=2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "import: 3 pairs of 5 rows" in done.stderr
    flow = Workflow.start(load(path, ("dataset.batch=2",)))
    flow.run()
    run = flow.folder
    assert [(row["place"][-2:], row["reason"]) for row in read_rows(run.left_out)] == [(":1", "tie"), (":1", "broken")]
    assert [row["step"] for row in read_rows(run.log)] == [1, 2]
    assert list(Manifest(run).stages()) == ["import", "pretrain", "train", "report"]
    assert (run.aligned / "pytorch_lora_weights.safetensors").is_file()
    assert len(read_rows(run.images / "pairs/pairs.jsonl")) == 3
    assert load(run.recipe).dataset == flow.recipe.dataset


def test_what_is_wrong_is_found_before_any_work(tiny_folder: Path, tmp_path: Path) -> None:
    given = {"source": str(table(tmp_path / "set", 1)), "format": "table"}
    path = recipe(tmp_path, tiny_folder, given)
    for override, message in (
        ("dataset.source=/nowhere", "dataset.source /nowhere: no file or folder there"),
        ("dataset.format=pick_a_pic", "t.jsonl:1 has no caption, jpg_0, jpg_1, label_0, label_1 but prompt, chosen"),
        ("dataset.format=pickapic", "dataset.format: no 'pickapic' in preferences: did you mean pick_a_pic?"),
        ("policy_pair=training_free", "TrainingFree reads degraded prompts, and labelled and most imported pairs"),
        ("dataset=null", "prompts: missing: give prompts to make pairs from, or a dataset to import pairs from"),
        ("validation.prompts=/nowhere", "validation.prompts: no file /nowhere: check the path"),
        ("dataset.narrowest=100", "dataset.narrowest: 100: input should be less than or equal to 16"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            Workflow.start(load(path, (override,)))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_imported_and_sampled_pairs_are_not_mixed(tiny_folder: Path, tmp_path: Path) -> None:
    """A run that began with one kind of pairs refuses the other."""
    given = {"source": str(table(tmp_path / "set", 1)), "format": "table"}
    (tmp_path / "prompts.txt").write_text("a red cube\n")
    more = {
        "prompts": str(tmp_path / "prompts.txt"),
        "sample": {"pairs": 1, "steps": 1},
        "policy_pair": "forward_noise",
    }
    path = recipe(tmp_path, tiny_folder, given, **more)
    Workflow.start(load(path)).run(("import",))
    with pytest.raises(InputError, match="stage import was begun with another dataset"):
        Workflow.start(load(path, ["dataset=null"]))
    with pytest.raises(InputError, match="sample: the recipe has no such group"):
        Workflow.start(load(path)).run(("sample",))
