"""`ddspo align` as its user types it, on tiny pipelines."""

import json
from pathlib import Path

import commands
import pytest
import yaml
from diffusers import DiffusionPipeline
from typer.testing import CliRunner

from ddspo import components
from ddspo.align.command import _begun
from ddspo.align.machine import Machine
from ddspo.align.wish import Wish
from ddspo.backbones.base import Backbone
from ddspo.backbones.qwen_image import QwenImage
from ddspo.cli import app
from ddspo.errors import InputError

QUICK = ("sample.pairs=4", "train.steps=2", "train.batch=2", "evaluate.prompts=compose://evaluation?count=2")
QUICK += ("validation.every=1", "trackers=[]")


def align(where: Path, *words: str, code: int = 0) -> str:
    return "".join(commands.run(["align", *words], code=code, folder=where))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny FLUX, aligned."""
    where = tmp_path_factory.mktemp("align")
    components.find(Backbone, "flux").tiny().save(where / "flux")
    out = align(where, "flux", "--budget", "10m", *QUICK)
    (where / "out.txt").write_text(out)
    return where


def test_it_ends_with_a_lora_that_diffusers_reads_and_the_words_to_use_it(run: Path) -> None:
    out = (run / "out.txt").read_text()
    pipeline = DiffusionPipeline.from_pretrained(run / "flux")
    pipeline.load_lora_weights(run / "runs/flux/aligned")
    assert pipeline.get_active_adapters()
    assert "from_pretrained('flux')" in out
    assert "load_lora_weights('runs/flux/aligned')" in out
    assert (run / "runs/flux/exports/flux-comfyui.safetensors").is_file()
    assert "runs/flux/exports/flux-comfyui.safetensors" in out
    assert (run / "runs/flux/report.html").is_file()


def test_judges_that_are_nowhere_are_named_and_the_run_goes_on(run: Path) -> None:
    out = (run / "out.txt").read_text()
    for name in ("geneval", "pick_score", "clip_score"):
        assert f"{name} does not judge" in out
    report = json.loads((run / "runs/flux/report.json").read_text())
    assert [*report["metrics"], *report["sets"]] == ["saturation", "latent_diversity"]


def test_the_plan_is_a_recipe_with_reasons(run: Path) -> None:
    text = (run / "runs/flux/plan.yaml").read_text()
    tree = yaml.safe_load(text)
    assert tree["model"]["path"] == "flux"
    assert tree["sample"]["pairs"] == 4
    assert "# pairs: as asked for" in text
    assert "as measured here" in text


def test_the_same_command_goes_on(run: Path) -> None:
    before = (run / "runs/flux/plan.yaml").read_bytes()
    out = align(run, "flux", "--budget", "10m", *QUICK)
    assert "goes on with runs/flux/plan.yaml" in out
    assert "train     kept" in out
    assert (run / "runs/flux/plan.yaml").read_bytes() == before


def test_another_wish_of_that_name_is_refused_and_the_plan_stays(run: Path) -> None:
    before = (run / "runs/flux/plan.yaml").read_bytes()
    out = align(run, "flux", "--budget", "10m", *QUICK, "train.lr=3e-4", code=2)
    assert "was begun with another train.lr" in out
    assert (run / "runs/flux/plan.yaml").read_bytes() == before


def test_a_dry_run_writes_nothing_and_loads_no_weights(run: Path) -> None:
    for file in (run / "flux").rglob("*.safetensors"):
        file.rename(file.with_suffix(".away"))
    try:
        text = align(run, "flux", "--name", "dry", "--memory", "24GB", "--dry-run")
    finally:
        for file in (run / "flux").rglob("*.away"):
            file.rename(file.with_suffix(".safetensors"))
    assert "a card of 24 GiB" in text
    assert not (run / "runs/dry").exists()


@pytest.mark.parametrize("name", components.names(Backbone))
def test_every_family_is_planned_at_its_folders_own_side(name: str, tmp_path: Path) -> None:
    """Several say no side in any configuration of diffusers; a folder that was saved here does."""
    tiny = components.find(Backbone, name).tiny()
    tiny.save(tmp_path / name)
    begun = _begun(Wish(str(tmp_path / name), budget=180.0, name="x"), Machine("x", 2**30, 2**30, "fp32", shared=True))
    assert begun.side == tiny.call["height"] <= 128


def test_a_schedule_that_ends_before_the_image_is_looked_at_in_several_steps(tmp_path: Path) -> None:
    """Of Qwen-Image's, diffusers makes 0 / 0 where there is one step, and says so."""
    tiny = QwenImage.tiny()
    tiny.pipeline.scheduler.register_to_config(shift_terminal=0.02)
    tiny.save(tmp_path)
    machine = Machine("x", 2**30, 2**30, "fp32", shared=True)
    assert _begun(Wish(str(tmp_path), budget=180.0, name="x"), machine).guided


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["flux", "--budget", "0.01s"], "below which nothing was gained"),
        (["flux", "--memory", "1"], "--memory '1': give a size"),
        (["flux", "--budget", "soon"], "--budget 'soon': give a time"),
        (["nowhere"], "nowhere"),
        (["flux", "train.lrr=1"], "train.lrr: no such key"),
    ],
)
def test_what_cannot_work_is_one_line(
    run: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    done = CliRunner().invoke(app, ["align", *words, "--name", "no", *QUICK])
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
    assert not (run / "runs/no").exists()
