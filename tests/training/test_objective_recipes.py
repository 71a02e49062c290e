"""Objectives as a recipe names them: overrides, what is refused before any work, and winners that are alone."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ddspo.cli import app
from ddspo.errors import InputError
from ddspo.objectives.dmpo import DMPO
from ddspo.objectives.kto import KTO
from ddspo.objectives.label_smoothing import LabelSmoothing
from ddspo.objectives.sdpo import SDPO
from ddspo.pairs.store import PairStore
from ddspo.recipe import dump, load
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.workflow import Workflow

SCENES = Path(__file__).parents[2] / "recipes/scenes.yaml"
SMALL = [
    *("sample.pairs=6", "sample.batch=6", "sample.steps=2", "sample.guidance=1", "train.steps=2", "train.batch=4"),
    *("train.device_batch=2", "train.lr=1e-5", "evaluate=null", "validation.every=0", "validation.final=0"),
    *("trackers=[]", "adaptation.lora.rank=2"),
]
NOISE = "policy_pair=forward_noise"


def test_an_objective_in_a_modifier(tmp_path: Path) -> None:
    """Written out, with an override of what is inside, and printed and read again."""
    written = [NOISE, "objective={sdpo: {of: {dmpo: {beta: 100}}}}"]
    assert load(SCENES, written).objective == SDPO(DMPO(beta=100))
    recipe = load(SCENES, [*written, "objective.sdpo.of.dmpo.beta=7", "objective.sdpo.mu=.5"])
    assert recipe.objective == SDPO(DMPO(beta=7), mu=0.5)
    assert load(SCENES, ["objective={label_smoothing: {of: kto}}"]).objective == LabelSmoothing(KTO())
    shown = tmp_path / "shown.yaml"
    shown.write_text(dump(recipe))
    assert load(shown) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective={sdpo: {of: dmpoo}}", "objective.sdpo.of: no 'dmpoo' in objectives: did you mean dmpo or sdpo?"),
        (
            "objective={sdpo: {of: {dmpo: {alpha: .7}}}}",
            "objective.sdpo.of.dmpo.alpha: 0.7: input should be less than",
        ),
        ("objective={sdpo: {dmpo: {}}}", "objective.sdpo.dmpo: no such key"),
        ("objective={dspo_sdxl: {far: 0}}", "objective.dspo_sdxl.far: 0: input should be greater than 0"),
    ],
)
def test_mistakes_inside(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(SCENES, [override])
    assert message in str(caught.value)


@pytest.mark.parametrize("objective", ["sft", "{label_smoothing: {of: kto}}"])
def test_a_refused_combination_is_one_line_before_any_work(objective: str, tmp_path: Path) -> None:
    """With force=true the same recipe starts."""
    overrides = [f"out={tmp_path / 'runs'}", f"objective={objective}", *SMALL]
    done = CliRunner().invoke(app, ["run", str(SCENES), *overrides])
    assert done.exit_code != 0
    with pytest.raises(InputError) as caught:
        Workflow.start(load(SCENES, overrides))
    line = str(caught.value)
    assert "with policy_pair training_free: " in line
    assert line.endswith(", or set force=true")
    assert "\n" not in line
    assert not (tmp_path / "runs").exists()
    Workflow.start(load(SCENES, [*overrides, "force=true"])).run(("degrade",))
    assert (tmp_path / "runs/scenes/prompts.jsonl").exists()


@pytest.mark.parametrize("more", [[], ["draw.noise=generating", "adaptation=full"]])
def test_plain_fine_tuning_samples_winners_alone(more: list[str], tmp_path: Path) -> None:
    """No loser in the store, none in the log, and no reference to have moved from."""
    Workflow.start(load(SCENES, [f"out={tmp_path}", NOISE, "objective=sft", *SMALL[:-1], *more])).run()
    run = RunFolder(tmp_path / "scenes")
    assert PairStore.open(run.pairs).sides == ("win",)
    for row in read_rows(run.log):
        assert row["win_error"] == pytest.approx(row["loss"], rel=1e-5)
        assert not row.keys() & {"lose_error", "win_displacement", "lose_displacement", "u_mean", "accuracy"}
    assert run.aligned.is_dir()


def test_a_forced_combination_trains(tmp_path: Path) -> None:
    """SFT towards the reference itself: loss 0."""
    overrides = [f"out={tmp_path}", "objective=sft", "force=true", *SMALL]
    Workflow.start(load(SCENES, overrides)).run()
    assert [row["loss"] for row in read_rows(tmp_path / "scenes/log.jsonl")] == [0, 0]
