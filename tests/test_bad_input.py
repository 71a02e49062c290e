"""What is wrong is found before any long stage, named in one line, and leaves no run folder behind."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
from commands import run

from ddspo import checks
from ddspo.errors import InputError
from ddspo.prompts.reading import read_prompts
from ddspo.recipe import load
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.workflow import Workflow

SCENES = Path(__file__).parents[1] / "recipes/scenes.yaml"


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "", "holds no prompt"),
        ("p.txt", "\n \n", "holds no prompt"),
        ("p.jsonl", '{"prompt": "a b", "id": "x"}\n{"prompt": "c d", "id": "x"}\n', "p.jsonl:2: id 'x' is also"),
        ("p.jsonl", '{"prompt": "a b", "id": "../x"}\n', "id '../x'"),
        ("p.jsonl", '{"prompt": "a b", "id": "a\\u0000"}\n', "id 'a\\x00'"),
        ("p.jsonl", '{"prompt": ""}\n', "no prompt"),
        ("p.jsonl", '{"text": "a b"}\n', "no prompt"),
        ("p.jsonl", "{\n", "p.jsonl:1: not JSON"),
        ("p.jsonl", "3\n", "p.jsonl:1: int in place of an object"),
    ],
)
def test_prompt_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    prompts = write(tmp_path / name, text)
    assert message in refused(tmp_path, f"prompts={prompts}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prompts=/nowhere.txt", "prompts: no file /nowhere.txt"),
        ("model.path=/nowhere", "model.path /nowhere: no model_index.json"),
        ("model.path=somebody/some-model", "model.path somebody/some-model: no such folder here, and the hub"),
        ("train.batch=33", "train.batch 33: not a multiple"),
        ("evaluate.prompts=/nowhere.jsonl", "evaluate.prompts: no file"),
        ("evaluate.references=/nowhere", "evaluate.references: no file or folder"),
        ("degradation.remove_words.least=0.9", "least 0.9 is above most 0.7"),
        ("model.dtype=fp16", "model.dtype fp16: training in it needs a GPU: choose bf16 or fp32 on cpu"),
        ("draw.other_prompts.constant.value=2", "draw.other_prompts: a probability of 2: give"),
        ("train.warmup=2000000", "train.warmup: 2000000: input should be less than or equal to 1000000"),
        ("train.average=.nan", "train.average: nan: input should be a finite number"),
        ("draw.weight.constant.value=0", "draw.weight: it is 0 at every time"),
        (
            "adaptation.lora.targets=[to_q, nope]",
            "adaptation.lora.targets: no layer of unet is called 'nope': there are",
        ),
        ("adaptation.lora.targets=[norm1]", "norm1 is a LayerNorm, which takes no adapter"),
        ("adaptation.lora.targets=[]", "adaptation.lora.targets: []: tuple should have at least 1 item"),
        ("adaptation.lora.rank=4096", "adaptation.lora.rank 4096: its layers have 96 inputs and outputs at most"),
        (
            "model.resolution=64",
            "evaluate.metrics.geneval: it reads images of 32 x 32 pixels, and the model makes 64 x 64",
        ),
        ("model.revision=main", "model.revision 'main': only a hub id has one: leave it out"),
        ("model.resolution=33", "model.resolution 33: give a multiple of 4"),
        ("model.distilled_guidance=3", "model.distilled_guidance: this StableDiffusionPipeline has no guidance input"),
        ("out=s3://bucket/runs", "out s3://bucket/runs: give a folder of this machine"),
        ("out=~nobody-of-that-name/runs", "out ~nobody-of-that-name/runs: nobody of that name has a home here"),
        (f"out={SCENES}/runs", "scenes.yaml/runs/scenes: Not a directory: give another folder"),
        ("out=/proc/runs", "out /proc/runs/scenes: No such file or directory: give another folder"),
        (f"out=/{'x' * 300}", "File name too long: give another folder"),
        ("model.backbone=sdd", "no 'sdd' in backbones: did you mean sd or sd3?"),
    ],
)
def test_recipes(tmp_path: Path, override: str, message: str) -> None:
    assert message in refused(tmp_path, override)


def test_a_resolution_that_no_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 channels of the autoencoder's last layers, in and out, in single precision: 2 x 8 x 64 x 64 x 4 bytes."""
    monkeypatch.setattr(checks, "memory_of", lambda device: 2**18 - 1)
    Workflow.start(load(SCENES, [f"out={tmp_path / 'other'}", "model.resolution=32"]))
    message = refused(tmp_path, "model.resolution=64", "evaluate=null", "validation.scored=0")
    assert "model.resolution 64: one layer of the autoencoder needs 0 GiB for one image, and cpu has 0" in message


def test_a_folder_that_nobody_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that is mounted for reading, whose root nothing can be made in."""

    def refuse(dir: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    message = refused(tmp_path, "seed=1")
    assert message == f"out {tmp_path}/runs/scenes: Read-only file system: give another folder"


def test_the_home_of_whoever_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Workflow.start(load(SCENES, ["out=~/runs"])).folder.path == tmp_path / "runs/scenes"
    assert (tmp_path / "runs/scenes/recipe.yaml").exists()


def test_rows_that_the_metric_cannot_read(tmp_path: Path) -> None:
    rows = write(tmp_path / "e.jsonl", '{"prompt": "a b", "tag": "colour"}\n')
    assert "e.jsonl:1: geneval: tag 'colour' is none of" in refused(tmp_path, f"evaluate.prompts={rows}")
    row = '{"prompt": "a b", "tag": "counting", "include": [{"class": "%s", "count": 2}]}\n'
    rows = write(tmp_path / "v.jsonl", row % "circle" + row % "dragon")
    message = refused(tmp_path, f"evaluate.validation={rows}")
    assert "class 'dragon' is none that the detector knows: circle, square, triangle" in message


def test_one_image_has_no_distance(tmp_path: Path) -> None:
    row = '{"prompt": "a b", "tag": "counting", "include": [{"class": "circle", "count": 2}]}'
    rows = f"evaluate.prompts={write(tmp_path / 'e.jsonl', row)}"
    assert "evaluate.images 1: latent_distance measures no single image" in refused(
        tmp_path, rows, "evaluate.images=1"
    )
    Workflow.start(load(SCENES, [f"out={tmp_path}", rows, "evaluate.images=1", "evaluate.metrics=[saturation]"]))


def test_another_pipeline_class(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write(tmp_path / "model/model_index.json", '{"_class_name": "FluxPipeline"}')
    message = refused(tmp_path, f"model.path={tmp_path / 'model'}", "model.backbone=sd")
    assert "it is a FluxPipeline, and model.backbone sd reads StableDiffusionPipeline: leave" in message
    write(tmp_path / "model/model_index.json", '{"_class_name": "KandinskyPipeline"}')
    message = refused(tmp_path, f"model.path={tmp_path / 'model'}", "model.backbone=null")
    assert "it is a KandinskyPipeline; supported are " in message
    assert "FluxPipeline (flux), " in message


def test_another_recipe_for_a_run_that_has_begun(tmp_path: Path) -> None:
    """It is refused, names what differs, and leaves the run as it was; --fresh throws it away."""
    overrides = [f"out={tmp_path}", "sample.pairs=4"]
    Workflow.start(load(SCENES, overrides)).run(("degrade",))
    run = RunFolder(tmp_path / "scenes")
    before = run.recipe.read_text(), read_rows(run.prompts)
    with pytest.raises(InputError, match="stage degrade was begun with another seed"):
        Workflow.start(load(SCENES, [*overrides, "seed=5"]))
    assert (run.recipe.read_text(), read_rows(run.prompts)) == before
    Workflow.start(load(SCENES, [*overrides, "seed=5"]), fresh=True, first="degrade").run(("degrade",))
    assert read_rows(run.prompts) != before[1]


def test_a_stage_before_its_turn(tmp_path: Path) -> None:
    flow = Workflow.start(load(SCENES, [f"out={tmp_path}"]))
    with pytest.raises(InputError, match="degrade is not finished"):
        flow.run(("train",))


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("train", "degrade is not finished"),
        ("import", "import: the recipe has no such group"),
        ("pretrain", "training_free needs no winner and loser"),
    ],
)
def test_a_stage_that_cannot_come_first_leaves_no_folder(tmp_path: Path, first: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Workflow.start(load(SCENES, [f"out={tmp_path / 'runs'}"]), first=first)
    assert not (tmp_path / "runs").exists()


def test_weights_of_judges_that_nobody_gives(tmp_path: Path) -> None:
    """Known before the first stage where all are to run, and no hindrance to the stages that ask no judge."""
    judge = "evaluate.metrics=[saturation, {clip_score: {place: nobody/nothing}}]"
    flow = Workflow.start(load(SCENES, [f"out={tmp_path}", judge]))
    with pytest.raises(InputError, match=r"weights nobody/nothing: no such folder here, and the hub did not answer"):
        flow.run()
    assert not RunFolder(tmp_path / "scenes").prompts.exists()
    flow.run(("degrade",))
    assert RunFolder(tmp_path / "scenes").prompts.exists()


def test_an_evaluation_that_the_recipe_does_not_have(tmp_path: Path) -> None:
    flow = Workflow.start(load(SCENES, [f"out={tmp_path}", "evaluate=null"]))
    with pytest.raises(InputError, match="images: the recipe has no such group"):
        flow.run(("images",))
    with pytest.raises(InputError, match="degrade is not finished"):
        flow.run(("report",))


def test_prompts_without_ids_are_numbered(tmp_path: Path) -> None:
    rows = read_prompts(write(tmp_path / "p.txt", "a b\n\nc <b>&\n"), "prompts")
    assert rows == [{"prompt": "a b", "id": "p000001"}, {"prompt": "c <b>&", "id": "p000002"}]


def test_the_command_prints_one_line_and_fails() -> None:
    said = run(["run", str(SCENES), "train.lrr=1"], code=2)
    assert said.err.splitlines()[-1].startswith("ddspo: ")
    assert "Traceback" not in said.err
    assert said.out == ""


def refused(tmp_path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        Workflow.start(load(SCENES, [f"out={tmp_path / 'runs'}", *overrides]))
    assert not (tmp_path / "runs").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)
