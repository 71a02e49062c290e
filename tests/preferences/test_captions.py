"""Captioned images without preferences: captions are degraded, images encoded once, and nothing is sampled."""

import io
import math
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from preference_files import encoded, lines, picture, save
from test_formats import read

from ddspo.backbones.base import Backbone
from ddspo.backbones.sd import SD
from ddspo.cost.total import cost
from ddspo.errors import InputError
from ddspo.manifest import Manifest
from ddspo.pairs.store import PairStore
from ddspo.recipe import load
from ddspo.rows import read_rows
from ddspo.workflow import Workflow

CAPTIONS = ["a red cube on a table", "two small cats", "a red cube on a table", "cats", "a green bird in a tree"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Image n is picture n; captions 0 and 2 are equal, and of one word nothing can be left out."""
    for number, caption in enumerate(CAPTIONS):
        save(tmp_path / "set" / f"{number}.png", number)
        (tmp_path / "set" / f"{number}.txt").write_text(f"{caption}\n")
    return tmp_path / "set"


@pytest.fixture
def recipe(folder: Path, tiny_folder: Path) -> Path:
    tree = {
        "name": "run",
        "out": str(folder.parent / "runs"),
        "model": {"path": str(tiny_folder)},
        "dataset": {"source": str(folder), "format": "captions", "batch": 2},
        "draw": {"latents": "winner", "noise": "independent"},
        "adaptation": {"lora": {"rank": 2}},
        "train": {"steps": 2, "batch": 4, "device_batch": 2, "lr": 0.001},
        "validation": {"final": 0},
        "trackers": [],
    }
    path = folder.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_a_text_beside_each_image(folder: Path) -> None:
    """Also in folders below, and under the other usual ending; what has no text is left out."""
    save(folder / "more" / "b.jpg", 7)
    (folder / "more" / "b.caption").write_text("below")
    save(folder / "more" / "c.png", 8)
    save(folder / "d.png", 9)
    (folder / "d.txt").write_bytes(b"\xff")
    found, left_out = read("captions", folder)
    assert [(each.place, each.prompt) for each in found] == [
        *((f"{number}.png", caption) for number, caption in enumerate(CAPTIONS)),
        ("more/b.jpg", "below"),
    ]
    assert np.array_equal(found[1].sides.win.read(), picture(1))
    assert found[1].sides.win is found[1].sides.lose
    assert left_out == [("d.png", "no prompt"), ("more/c.png", "no prompt")]


def test_a_list_of_the_folder(folder: Path) -> None:
    """It alone counts where it is there, as in the imagefolder convention of `datasets`."""
    lines(folder / "metadata.jsonl", [{"file_name": "1.png", "text": "one"}, {"file_name": "../1.png", "text": "out"}])
    found, _ = read("captions", folder)
    assert [each.prompt for each in found] == ["one", "out"]
    (folder / "metadata.jsonl").rename(folder / "metadata.csv")
    (folder / "metadata.csv").write_text("file_name,text\n1.png,one\n")
    assert [each.prompt for each in read("captions", folder)[0]] == ["one"]


def test_a_table_of_images(tmp_path: Path) -> None:
    rows = [{"jpg": {"bytes": encoded(3), "path": None}, "txt": "three"}, {"jpg": None, "txt": "none"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-0.parquet")
    for source in (tmp_path, tmp_path / "train-0.parquet"):
        found, left_out = read("captions", source)
        assert [each.prompt for each in found] == ["three"]
        assert np.array_equal(found[0].sides.win.read(), picture(3))
        assert left_out == [("train-0.parquet:1", "wrong columns")]
    pq.write_table(pa.table({"picture": [b"x"], "about": ["x"]}), tmp_path / "train-0.parquet")
    with pytest.raises(InputError, match=r"no column image but picture, about: name it with dataset.format.capt"):
        read("captions", tmp_path)
    assert not read({"captions": {"image": "picture", "caption": "about"}}, tmp_path)[1]


def test_tar_files(tmp_path: Path) -> None:
    """As WebDataset makes them: a row is what has one name up to the first dot, folders and all."""

    def write(name: str, files: dict[str, bytes]) -> None:
        with tarfile.open(tmp_path / name, "w") as tar:
            for each, content in files.items():
                member = tarfile.TarInfo(each)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

    write("b.tar", {"2.png": encoded(2), "2.txt": b"two\n"})
    write(
        "a.tar",
        {"x/0.PNG": encoded(0), "x/0.json": b"{}", "x/0.txt": b"zero", "x/1.png": encoded(1), "9.txt": b"\xff"},
    )
    found, left_out = read("captions", tmp_path)
    assert [(each.place, each.prompt) for each in found] == [("a.tar:x/0", "zero"), ("b.tar:2", "two")]
    assert np.array_equal(found[0].sides.win.read(), picture(0))
    assert left_out == [("a.tar:x/1", "no prompt"), ("a.tar:9", "text that is not UTF-8")]
    assert len(read("captions", tmp_path / "b.tar")[0]) == 1
    (tmp_path / "b.tar").write_bytes((tmp_path / "b.tar").read_bytes()[:700])
    with pytest.raises(InputError, match=r"b.tar: no whole tar file \(.*\): get it anew"):
        read("captions", tmp_path / "b.tar")


def test_run(recipe: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image that is used is encoded once, and none is sampled; both branches look at it.

    Captions 0 and 2 are one prompt with one list of variants; "cats" has none, and its image is left out.
    """
    seen: list[int] = []
    to_latents = Backbone.to_latents
    monkeypatch.setattr(
        Backbone, "to_latents", lambda self, images: (seen.append(len(images)), to_latents(self, images))[1]
    )
    monkeypatch.setattr(Backbone, "generate", lambda *_: pytest.fail("nothing is sampled"))
    flow = Workflow.start(load(recipe))
    flow.run()
    assert list(Manifest(flow.folder).stages()) == ["degrade", "import", "train", "report"]
    assert sum(seen) == 4
    prompts = {row["prompt"]: [each["text"] for each in row["degraded"]] for row in read_rows(flow.folder.prompts)}
    assert list(prompts) == [CAPTIONS[0], CAPTIONS[1], CAPTIONS[4]]
    assert [row["reason"] for row in read_rows(flow.folder.left_out)] == ["caption that cannot be made poorer"]
    store, backbone = PairStore.open(flow.folder.pairs), SD.load(flow.recipe.model)
    assert (store.sides, store.has_degraded, len(store)) == (("win",), True, 4)
    kept = [0, 1, 2, 4]
    for place, number in enumerate(kept):
        row = store.row(place)
        assert row["prompt"] == CAPTIONS[number]
        assert row["degraded"] in prompts[row["prompt"]]
        assert row["kind"] == "remove_words"
        own = to_latents(backbone, [backbone.fit(np.asarray(picture(number)), "crop")])
        torch.testing.assert_close(store.take([place]).latents.win.float(), own, rtol=1e-2, atol=1e-2)
    log = read_rows(flow.folder.log)
    assert log[0]["gap"] > 0
    assert log[1]["win_displacement"] != log[1]["lose_displacement"]


def test_two_prompts_of_one_image(recipe: Path) -> None:
    """Caption against poorer caption, by the noise that was added: u moves, and an image's own noise is one."""
    given = ["policy_pair=text_preference", "draw.noise=shared"]
    flow = Workflow.start(load(recipe, given))
    flow.run()
    log = read_rows(flow.folder.log)
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert log[1]["u_mean"] != 0
    assert log[1]["win_displacement"] != log[1]["lose_displacement"]


def test_what_an_interruption_leaves_is_gone_on_with(recipe: Path) -> None:
    """Same bytes; and another degradation makes other pairs, which nobody takes for these."""
    flow = Workflow.start(load(recipe))
    flow.run(("degrade", "import"))
    shard = flow.folder.pairs / "000000.parquet"
    whole = shard.read_bytes()
    shard.unlink()
    Workflow.start(load(recipe)).run(("import",))
    assert shard.read_bytes() == whole
    other = load(recipe, ["degradation={remove_words: {least: 0.1, most: 0.2}}"])
    with pytest.raises(InputError, match="stage degrade was begun with another degradation"):
        Workflow.start(other)
    Workflow.start(other, fresh=True, first="degrade").run(("degrade", "import"))
    assert shard.read_bytes() != whole


def test_the_first_rows(recipe: Path) -> None:
    """`dataset.pairs` counts rows, so that captions are degraded for these and no others."""
    flow = Workflow.start(load(recipe, ["dataset.pairs=3"]))
    flow.run(("degrade", "import"))
    assert [row["prompt"] for row in read_rows(flow.folder.prompts)] == CAPTIONS[:2]
    assert len(PairStore.open(flow.folder.pairs)) == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["draw.latents=both"], "draw.latents both: the dataset has one image of each caption: set draw.latents=winn"),
        (["draw.latents=loser"], "draw.latents loser: the dataset has one image"),
        (["policy_pair=data_driven"], "policy_pair: its loser learns from losing images, and the dataset has none"),
        (["policy_pair=forward_noise"], "draw.latents: with forward_noise a single latent has a single target"),
        (["degradation=given"], "prompts: none of 4 can be degraded"),
    ],
)
def test_what_one_image_cannot_give(recipe: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Workflow.start(load(recipe, overrides))
    assert "\n" not in str(caught.value)


def test_nothing_is_sampled_and_half_is_kept(recipe: Path) -> None:
    """A folder says how many images it has: 5, each with one latent of 2 bytes a number, and two texts, at most."""
    found = cost(load(recipe))
    shape = torch.Size(SD.tiny().latent_shape).numel()
    assert (found.work.pairs, found.work.samples, found.work.train_texts) == (5, 0, 10)
    assert found.disk.pairs_bytes == 5 * shape * 2
