"""`ddspo judge` on folders that this library never saw, in every layout."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from ddspo.cli import app
from ddspo.errors import InputError
from ddspo.files import write_json, write_rows
from ddspo.galleries import layout, open_folder, write_layouts
from ddspo.rows import Row
from ddspo.run_folder import RunFolder
from ddspo.scenes.prompts import scene_for, split_items
from ddspo.scenes.world import render
from ddspo.verdicts import Wanted, judge, measures

COLOURED = {str(row["include"]): row for row in split_items("evaluation") if row["tag"] == "colors"}
ROWS = list(COLOURED.values())[:6]
"""No picture of one is right for another."""
GENEVAL = ("geneval.detector=scenes",)


def draw(folder: Path, *, right: bool, images: int = 2) -> Path:
    """Renders of the rows with metadata.jsonl; wrong ones are of the next row."""
    rng, listed = np.random.default_rng(0), []
    for number, row in enumerate(ROWS):
        for index in range(images):
            shown = row if right or index else ROWS[(number + 1) % len(ROWS)]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(render(scene_for(shown, rng), rng)).save(folder / f"{number:05d}_{index}.png")
            listed.append(row | {"file_name": f"{number:05d}_{index}.png", "item": number, "index": index, "seed": 1})
    write_rows(folder / "metadata.jsonl", listed)
    return folder


def verdict(*folders: Path, **more: Any) -> Row:
    given: dict[str, Any] = {
        "metrics": ("geneval", "saturation"),
        "options": GENEVAL,
        "references": None,
        "out": None,
        "batch": 4,
        "skips": False,
    }
    return judge(Wanted(folders=folders, **(given | more)), Console(quiet=True))


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    return draw(tmp_path / "right", right=True), draw(tmp_path / "half", right=False)


def test_folders_are_compared_with_the_first(both: tuple[Path, Path], tmp_path: Path) -> None:
    """All renders of one are right; the other's first images show another row's things, which is wrong."""
    found = verdict(*both, out=tmp_path / "found.json")
    geneval = found["metrics"]["geneval"]
    assert found["models"] == ["right", "half"]
    assert geneval["models"]["right"]["score"] == 1.0
    assert geneval["models"]["half"]["score"] == 0.5
    assert geneval["models"]["half"]["difference"] == -0.5
    assert geneval["models"]["half"]["won"] == 0.0
    assert geneval["models"]["right"]["control"] < 0.5
    assert found["metrics"]["saturation"]["models"]["right"]["control"] is None
    kept = json.loads((tmp_path / "found.json").read_text())
    assert len(kept["images"]["geneval"]) == 2 * 6 * 2 + 2 * 6
    assert kept["metrics"] == json.loads(json.dumps(found["metrics"]))


def test_every_layout_gives_the_same_digits(both: tuple[Path, Path], tmp_path: Path) -> None:
    """A run's folders, the same copied elsewhere, and GenEval's layout of them."""
    run = RunFolder(tmp_path / "run")
    for name, folder in zip(("base", "aligned"), both, strict=True):
        shutil.copytree(folder, run.images / name)
    write_json(run.drawn, {"models": ["base", "aligned"], "scales": {}, "choose": None})
    whole = verdict(run.path)
    assert whole["models"] == ["base", "aligned"]
    copied = verdict(
        *(Path(shutil.copytree(run.images / name, tmp_path / f"copy/{name}")) for name in whole["models"])
    )
    official = verdict(*write_layouts(run, layout("geneval")))
    assert whole["metrics"] == copied["metrics"] == official["metrics"]
    assert (run.path / "layouts/geneval/base/00003/samples/0001.png").is_file()
    named = verdict(*write_layouts(run, layout("t2i_compbench")), metrics=("saturation",), options=())
    for name in whole["models"]:
        one, other = (each["metrics"]["saturation"]["models"][name] for each in (named, whole))
        assert (one["score"], one.get("interval")) == (other["score"], other.get("interval"))
    assert open_folder(run.path / "layouts/t2i_compbench/base").galleries[0].pictures[3].row == {
        "prompt": ROWS[1]["prompt"]
    }


def test_texts_beside_images(both: tuple[Path, Path], tmp_path: Path) -> None:
    for path in sorted(both[0].glob("*.png")):
        target = tmp_path / "plain" / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
        target.with_suffix(".txt").write_text(ROWS[int(path.name[:5])]["prompt"] + "\n")
    (gallery,) = open_folder(tmp_path / "plain").galleries
    assert [(each.row["prompt"], each.index) for each in gallery.pictures[:3]] == [
        (ROWS[0]["prompt"], 0),
        (ROWS[0]["prompt"], 1),
        (ROWS[1]["prompt"], 0),
    ]
    with pytest.raises(InputError, match=r"00000_0\.png: geneval: tag None is none of"):
        verdict(tmp_path / "plain")


def damage(folder: Path, how: str) -> None:
    path = folder / "metadata.jsonl"
    lines = path.read_text().splitlines()
    outside = folder.parent / "secret.png"
    shutil.copyfile(folder / "00000_0.png", outside)
    changes = {
        "json": "{",
        "type": "[]",
        "prompt": json.dumps(json.loads(lines[0]) | {"prompt": " "}),
        "name": json.dumps(json.loads(lines[0]) | {"file_name": "metadata.jsonl"}),
        "outside": json.dumps(json.loads(lines[0]) | {"file_name": "../secret.png"}),
        "absolute": json.dumps(json.loads(lines[0]) | {"file_name": str(outside)}),
        "missing": json.dumps(json.loads(lines[0]) | {"file_name": "none.png"}),
    }
    if how in changes:
        lines[0] = changes[how]
        path.write_text("\n".join(lines))
    elif how == "utf8":
        path.write_bytes(b"\xff\n" + "\n".join(lines[1:]).encode())
    elif how == "link":
        (folder / "00000_0.png").unlink()
        (folder / "00000_0.png").symlink_to(outside)
    else:
        (folder / "00000_0.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("json", r"metadata.jsonl:1: not JSON"),
        ("type", r"metadata.jsonl:1: list in place of an object"),
        ("prompt", r"metadata.jsonl:1: no prompt: give a text under 'prompt'"),
        ("name", r"metadata.jsonl:1: file_name 'metadata.jsonl' names no image"),
        ("outside", r"metadata.jsonl:1: file_name '../secret.png' leads out of the folder"),
        ("absolute", r"metadata.jsonl:1: file_name '/.*' leads out of the folder"),
        ("link", r"metadata.jsonl:1: file_name '00000_0.png' leads out of the folder"),
        ("missing", r"metadata.jsonl:1: no file 'none.png'"),
        ("utf8", r"metadata.jsonl:1: no UTF-8"),
        ("broken", r"00000_0.png: broken: none of"),
    ],
)
def test_what_is_damaged_is_one_line_and_the_rest_is_judged_if_asked(
    how: str, message: str, both: tuple[Path, Path]
) -> None:
    damage(both[1], how)
    with pytest.raises(InputError, match=message + r".*; --skip-damaged judges the rest$"):
        verdict(*both)
    found = verdict(*both, skips=True)
    assert len(found["left_out"]) == 1
    # The first image of the first prompt was wrong: what is left of it is right.
    assert found["metrics"]["geneval"]["models"]["half"]["score"] > 0.5


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda path: (path / "metadata.jsonl").unlink(), r"00000/metadata.jsonl: missing"),
        (lambda path: (path / "metadata.jsonl").write_text(""), r"00000/metadata.jsonl: empty"),
        (lambda path: (path / "metadata.jsonl").write_text("{"), r"00000/metadata.jsonl:1: not JSON"),
        (lambda path: shutil.rmtree(path / "samples"), r"00000/samples: no image"),
    ],
)
def test_damage_in_the_official_layout(how: Any, message: str, both: tuple[Path, Path], tmp_path: Path) -> None:
    layout("geneval").write(tmp_path / "official", open_folder(both[0]).galleries[0].pictures)
    how(tmp_path / "official/00000")
    with pytest.raises(InputError, match=message):
        verdict(tmp_path / "official")
    assert verdict(tmp_path / "official", skips=True)["metrics"]["geneval"]["prompts"] == 5


def test_a_prompt_that_no_file_can_be_named_after(both: tuple[Path, Path], tmp_path: Path) -> None:
    (gallery,) = open_folder(both[0]).galleries
    for prompt in ("a/b", "a_b", "..", "x" * 250):
        gallery.pictures[0].row["prompt"] = prompt
        with pytest.raises(InputError, match=r"t2i_compbench: prompt '.*' cannot be part of a file's name"):
            layout("t2i_compbench").write(tmp_path / "out", gallery.pictures)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ("genevall",), "options": ()}, r"--metric: no 'genevall' in metrics: did you mean geneval"),
        ({"options": ()}, r"--metric.geneval.detector: missing: who reads the images"),
        ({"options": ("clip_score.x=1",)}, r"--set clip_score.x=1: none of --metric"),
        ({"options": ("geneval.detectr=scenes",)}, r"--metric.geneval.detectr: no such key: did you mean detector"),
        (
            {"metrics": ("latent_distance",), "options": ("latent_distance.model=package://ddspo.scenes/noise",)},
            r"--references: missing: latent_distance needs real images",
        ),
        ({"references": Path("nowhere")}, r"--references: no file or folder nowhere"),
    ],
)
def test_mistakes_get_one_line(change: dict[str, Any], message: str, both: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=message):
        verdict(*both, **change)


def test_folders_that_say_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        open_folder(tmp_path / "none")
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="nothing says what its images are of"):
        open_folder(tmp_path / "images")


@pytest.mark.parametrize("name", ["imagefolder", "run", "none"])
def test_a_layout_that_nobody_writes_is_refused_before_anything_is_drawn(name: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["images", str(tmp_path / "no-recipe.yaml"), "--layout", name])
    assert isinstance(done.exception, InputError)
    assert str(done.exception) == f"--layout {name!r}: images are written as geneval or t2i_compbench"


def test_options_of_metrics() -> None:
    (geneval,) = measures(("geneval",), ("geneval.detector=scenes", "geneval.threshold=0.5"))
    assert (geneval.name, vars(geneval)["threshold"]) == ("geneval", 0.5)
