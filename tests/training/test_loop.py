"""The one loop and what watches over it: guards, checkpoints, averages, validation, trackers, on a tiny pipeline."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import LoggerType
from interruptions import history, killed_at
from judges import Plain
from PIL import Image
from safetensors.torch import load_file

from ddspo.adaptations.full import Full
from ddspo.adaptations.lora import LoRA
from ddspo.backbones.base import Backbone
from ddspo.backbones.sd import SD
from ddspo.checks import Checked
from ddspo.errors import InputError, Stopped
from ddspo.manifest import Manifest
from ddspo.maths.pair import Pair
from ddspo.metrics.base import Metric, Score
from ddspo.objectives.logistic import Logistic
from ddspo.pairs.data import PairData
from ddspo.policy_pairs.training_free import TrainingFree
from ddspo.progress import Progress
from ddspo.recipe import load
from ddspo.reference_policies.refreshed import RefreshedReference
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.settings import settings_of
from ddspo.stages.train import Method, train
from ddspo.training.guards import Guards
from ddspo.training.optimisation import Optimisation
from ddspo.training.trackers import check_trackers, tracked
from ddspo.training.validation import Validation, Validator, spread, undisturbed
from ddspo.workflow import Workflow

PROMPTS = ["a red cube", "two cats", "x", "dogs in rows"]
SETTINGS = Optimisation(steps=6, batch=4, device_batch=4, lr=1e-3, checkpoint_every=2)
METHOD = Method(TrainingFree(), Logistic(beta=100), LoRA(rank=2, alpha=2))
ITEMS = [{"id": f"v{row}", "prompt": prompt, "tag": "colors"} for row, prompt in enumerate(PROMPTS)]


def data(backbone: Backbone) -> PairData:
    latents = Pair(*torch.randn(2, 4, *backbone.latent_shape, generator=torch.Generator().manual_seed(0)))
    return PairData([f"p{row}" for row in range(4)], PROMPTS, ["a", "b", "c", "d"], latents)


def fit(folder: Path, settings: Optimisation = SETTINGS, method: Method = METHOD) -> RunFolder:
    """Train a tiny pipeline; a folder that exists is gone on with."""
    backbone, run = SD.tiny(), RunFolder(folder)
    run.path.mkdir(exist_ok=True)
    train(run, backbone, data(backbone), method, settings, 3, Accelerator(), Progress(speaks=False))
    return run


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(run.aligned / "pytorch_lora_weights.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def resumed(folder: Path, settings: Optimisation, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Killed at the fifth update, and run again."""
    with monkeypatch.context() as patch:
        killed_at(5, patch)
        with pytest.raises(KeyboardInterrupt):
            fit(folder, settings)
    return fit(folder, settings)


@pytest.mark.parametrize("average", [None, 0.9])
def test_resumed_is_uninterrupted(average: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, average=average)
    whole = fit(tmp_path / "whole", settings)
    cut = resumed(tmp_path / "cut", settings, monkeypatch)
    assert same(weights(whole), weights(cut))
    assert history(whole.log) == history(cut.log)


def test_what_is_saved_is_the_average(tmp_path: Path) -> None:
    """Training itself is the same; aligned/ has the averages, and the last checkpoint has both."""
    plain, averaged = fit(tmp_path / "plain"), fit(tmp_path / "averaged", replace(SETTINGS, average=0.9))
    last = "checkpoints/0000006/weights.safetensors"
    assert history(plain.log) == history(averaged.log)
    assert same(load_file(plain.path / last), load_file(averaged.path / last))
    assert not same(weights(plain), weights(averaged))
    state = load_file(averaged.path / "checkpoints/0000006/average.safetensors")
    saved = sorted(float(value.sum()) for value in weights(averaged).values())
    assert sorted(float(value.sum()) for value in state.values()) == pytest.approx(saved)


def test_every_update_is_averaged_once(tmp_path: Path) -> None:
    """s <- m s + (1 - m) w with m = min(0.9, n / (n + 9)) after update n, s = w after the first; so are their sums."""
    run = fit(tmp_path / "run", replace(SETTINGS, average=0.9, checkpoint_every=1, keep=6))
    average = 0.0
    for step in range(1, 7):
        checkpoint = run.checkpoints / f"{step:07d}"
        weights, averages = (
            sum(float(value.double().sum()) for value in load_file(checkpoint / f"{name}.safetensors").values())
            for name in ("weights", "average")
        )
        m = min(0.9, step / (step + 9)) if step > 1 else 0.0
        average = m * average + (1 - m) * weights
        assert averages == pytest.approx(average, abs=1e-4)


def test_a_reference_follows_the_update_of_its_number(tmp_path: Path) -> None:
    """Refreshed every second update: in the checkpoints of 2 and 3 it is the policy of update 2, in that of 4 of 4."""
    settings = replace(SETTINGS, steps=4, checkpoint_every=1, keep=4, lr=1e-4)
    run = fit(tmp_path / "run", settings, replace(METHOD, reference=RefreshedReference(every=2)))
    left = [load_file(run.checkpoints / f"{step:07d}" / "weights.safetensors") for step in range(1, 5)]
    for checkpoint, number in ((1, 1), (2, 1), (3, 3)):
        policy = {name: value for name, value in left[number].items() if not name.startswith("reference/")}
        found = {name: left[checkpoint][f"reference/{name}"] for name in policy}
        assert same(found, policy)
    assert not same(policy, {name: left[0][f"reference/{name}"] for name in policy})


def test_the_runs_seed_decides_where_an_adapter_begins(tmp_path: Path) -> None:
    """After one small update A is where it was drawn, of standard deviation 1/2: other numbers for other seeds."""
    found = []
    for name, seed in (("one", 3), ("other", 4), ("again", 3)):
        backbone, run = SD.tiny(), RunFolder(tmp_path / name)
        settings = replace(SETTINGS, steps=1, lr=1e-6)
        train(run, backbone, data(backbone), METHOD, settings, seed, Accelerator(), Progress(speaks=False))
        drawn = [value.flatten() for name, value in sorted(weights(run).items()) if "lora_A" in name or "down" in name]
        found.append(torch.cat(drawn))
    assert torch.equal(found[0], found[2])
    assert (found[0] - found[1]).std() == pytest.approx(0.5 * 2**0.5, rel=0.1)


def test_a_diverging_run_stops_with_its_last_good_checkpoint(tmp_path: Path) -> None:
    """The rate rises from 0 to 100 over 40 updates; the checkpoint before the jump is whole, the spoiled one gone."""
    wild = replace(SETTINGS, steps=40, warmup=40, lr=100.0, checkpoint_every=1)
    with pytest.raises(Stopped) as caught:
        fit(tmp_path / "run", wild, replace(METHOD, objective=Logistic(beta=3000)))
    message, run = str(caught.value), RunFolder(tmp_path / "run")
    kept = sorted(run.checkpoints.glob("[0-9]*"))
    stopped = int(message.split()[2].rstrip(":"))
    assert message.startswith(f"train: update {stopped}: ")
    assert "\n" not in message
    assert f"the last good checkpoint is {kept[-1]}" in message
    assert int(kept[-1].name) == stopped - 2
    for file in kept[-1].glob("*.safetensors"):
        assert all(torch.isfinite(value).all() for value in load_file(file).values())
    assert [row["step"] for row in read_rows(run.log)] == list(range(1, stopped))
    assert not run.aligned.exists()


def test_a_policy_that_is_not_its_reference_at_the_start_is_an_error(tmp_path: Path) -> None:
    """A checkpointless run whose adapter does not start at zero: as a mismatch of precisions would be, only larger."""

    class Off(LoRA):
        def attach(self, backbone: Backbone, *rest: Any, **options: Any) -> Any:
            behaviours = super().attach(backbone, *rest, **options)
            with torch.no_grad():
                for parameter in backbone.denoiser.parameters():
                    parameter += 0.3 * parameter.requires_grad
            return behaviours

    with pytest.raises(Stopped, match=r"update 1: policy and reference already differ, \|u\| = "):
        fit(tmp_path / "run", method=replace(METHOD, adaptation=Off(), objective=Logistic(beta=1e6)))


class Falling(Plain):
    """Judges the n-th set of images that it sees by the n-th of some values: the base, then the policy each time."""

    def __init__(self, *values: float) -> None:
        self.values, self.own = list(values), uuid4()

    def identity(self, device: torch.device) -> str:
        return str(self.own)

    def judge(self, images: Any, rows: Any) -> list[Score]:
        value = self.values.pop(0)
        return [Score(value) for _ in rows]


def watched(tmp_path: Path, metric: Metric | None = None, **settings: Any) -> Method:
    given = Validation(**({"every": 2, "pictures": 2, "guidance": 2.0, "steps": 2, "batch": 2} | settings))
    return replace(
        METHOD,
        validator=lambda base: Validator(given, base, ITEMS, metric, 3, tmp_path / "validation", Accelerator()),
    )


def test_validation_changes_nothing_and_shows_two_rows(tmp_path: Path) -> None:
    plain, seen = fit(tmp_path / "plain"), fit(tmp_path / "seen", method=watched(tmp_path))
    assert same(weights(plain), weights(seen))
    assert history(plain.log) == history(seen.log)
    pictures = sorted(path.name for path in (tmp_path / "validation").glob("*.png"))
    assert pictures == ["0000002.png", "0000004.png", "0000006.png"]
    first, last = (np.asarray(Image.open(tmp_path / "validation" / name)) for name in (pictures[0], pictures[-1]))
    assert first.shape == (32, 32, 3)
    assert np.array_equal(first[:16], last[:16])
    assert not np.array_equal(first[16:], last[16:])
    assert [row["id"] for row in read_rows(tmp_path / "validation" / "prompts.jsonl")] == ["v0", "v3"]


@pytest.mark.parametrize("adaptation", [LoRA(rank=2, alpha=2), Full()], ids=["lora", "full"])
def test_validation_leaves_everything_as_it_was(adaptation: Any, tmp_path: Path) -> None:
    backbone = SD.tiny()
    validator = Validator(
        Validation(every=1, steps=2, pictures=2), backbone, ITEMS, None, 0, tmp_path / "v", Accelerator()
    )
    backbone.denoiser.train()
    flags = [(name, each.requires_grad) for name, each in backbone.denoiser.named_parameters()]
    scheduler, timesteps = backbone.pipeline.scheduler, backbone.pipeline.scheduler.timesteps.clone()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    modes: list[bool] = []
    hook = backbone.denoiser.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    validator(1)
    hook.remove()
    assert torch.equal(torch.rand(3), expected)
    assert modes
    assert not any(modes)
    assert backbone.denoiser.training
    assert [(name, each.requires_grad) for name, each in backbone.denoiser.named_parameters()] == flags
    assert backbone.pipeline.scheduler is scheduler
    assert torch.equal(scheduler.timesteps, timesteps)
    with pytest.raises(RuntimeError, match="x"), undisturbed(backbone):
        raise RuntimeError("x")
    assert backbone.denoiser.training


def test_scores_reach_the_log_and_keep_the_best_checkpoint(tmp_path: Path) -> None:
    """Validations after updates 3, 6, 9 score 0.2, 0.7, 0.6: the checkpoint of 6 stays beside the newest two.

    Checkpoints are due every fourth update; those of 3 and 6 are there because they were the best so far.
    """
    settings = replace(SETTINGS, steps=11, checkpoint_every=4)
    metric = Falling(0.1, 0.2, 0.7, 0.6)
    run = fit(tmp_path / "run", settings, watched(tmp_path, metric, every=3, scored=3))
    log = read_rows(run.log)
    assert [row["score"] for row in log if "score" in row] == pytest.approx([0.2, 0.7, 0.6])
    assert [row["step"] for row in log if "score" in row] == [3, 6, 9]
    assert log[2]["base_score"] == pytest.approx(0.1)
    assert sorted(path.name for path in run.checkpoints.glob("*")) == ["0000006", "0000008", "0000011"]


@pytest.mark.parametrize("average", [None, 0.9])
def test_the_best_is_saved_where_it_is_asked_for(average: float | None, tmp_path: Path) -> None:
    """Of validations after updates 2, 4, 6 the second scores best: what is saved is what a run of 4 updates saves."""
    method = watched(tmp_path, Falling(0.1, 0.2, 0.7, 0.6), scored=3, save="best")
    settings = replace(SETTINGS, average=average)
    best = fit(tmp_path / "best", settings, method)
    assert same(weights(best), weights(fit(tmp_path / "short", replace(settings, steps=4))))
    assert not same(weights(best), weights(fit(tmp_path / "last", settings)))
    assert len(read_rows(best.log)) == 6


@pytest.mark.parametrize(
    "validation", [{"scored": 3}, {"every": 2}, {"every": 7, "scored": 3}], ids=["never", "no score", "too late"]
)
def test_the_best_of_none_is_refused(validation: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"validation.save best: nothing would be scored: set validation.scored"):
        Validation(save="best", **validation).check(steps=6)


def test_where_the_best_is_saved_the_scores_belong_to_the_training(recipe: Path, tmp_path: Path) -> None:
    """So a run may not go on with others, which may with the last: they change nothing there."""
    flow = Workflow(Checked(load(recipe, [f"out={tmp_path}"]), {}, {}), Accelerator(), Progress(speaks=False))
    assert "validation" not in settings_of("train", flow.found)
    flow = Workflow(Checked(load(recipe, ["validation.save=best"]), {}, {}), Accelerator(), Progress(speaks=False))
    assert settings_of("train", flow.found)["validation"]["every"] == 2
    with pytest.raises(InputError, match=r"validation.save best: nothing would be scored"):
        Workflow.start(load(recipe, [f"out={tmp_path}", "validation.save=best"]))


def test_a_falling_score_stops_the_run_and_names_the_best_checkpoint(tmp_path: Path) -> None:
    metric = Falling(0.5, 0.8, 0.9, 0.5, 0.5, 0.4)
    settings = replace(SETTINGS, steps=9, guards=Guards(score_patience=2))
    with pytest.raises(Stopped, match=r"update 4: the validation score fell from 0.900 to 0.500") as caught:
        fit(tmp_path / "run", settings, watched(tmp_path, metric, every=1, scored=4))
    assert f"the best by score {tmp_path / 'run' / 'checkpoints' / '0000002'}" in str(caught.value)
    assert (tmp_path / "run/checkpoints/0000002/weights.safetensors").exists()


def test_rows_are_spread_evenly() -> None:
    assert spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert spread([1, 2], 5) == [1, 2]


RECIPE = """
name: run
model: {path: MODEL, backbone: sd}
prompts: PROMPTS
sample: {pairs: 4, steps: 1, guidance: 1.0, batch: 4}
objective: {logistic: {beta: 3000}}
train:
  {steps: 12, batch: 4, device_batch: 4, lr: 100.0, warmup: 12, checkpoint_every: 1,
   guards: {displacement: .inf, loss: 100}}
validation: {every: 2, pictures: 2, guidance: 1.0, steps: 1, final: 0}
"""


STAGES = ("degrade", "sample", "train")


def test_a_stopped_run_goes_on_with_a_lower_rate_and_nothing_else(recipe: Path, tmp_path: Path) -> None:
    out = f"out={tmp_path}"
    with pytest.raises(Stopped, match="the last good checkpoint is"):
        Workflow.start(load(recipe, [out])).run(STAGES)
    run = RunFolder(tmp_path / "run")
    assert Manifest(run).stages()["train"]["stopped"]
    kept = int(sorted(run.checkpoints.glob("[0-9]*"))[-1].name)
    before = read_rows(run.log)[:kept]
    with pytest.raises(InputError, match=r"stage train was begun with another objective.logistic.beta: "):
        Workflow.start(load(recipe, [out, "train.lr=1e-5", "objective.logistic.beta=5"]))
    Workflow.start(load(recipe, [out, "train.lr=1e-5"])).run(STAGES)
    assert Manifest(run).stages()["train"]["finished"]
    log = read_rows(run.log)
    assert log[:kept] == before
    assert [row["step"] for row in log] == list(range(1, 13))
    assert log[-1]["lr"] == pytest.approx(1e-5 * 11 / 12)
    assert run.aligned.exists()
    with pytest.raises(InputError, match=r"stage train was begun with another train.lr: "):
        Workflow.start(load(recipe, [out, "train.lr=1e-6"]))


def test_tensorboard_gets_every_update_and_the_pictures(recipe: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Workflow.start(load(recipe, [f"out={tmp_path}", "train.lr=1e-4"])).run(STAGES)
    run = RunFolder(tmp_path / "run")
    events = EventAccumulator(str(run.trackers / "run"), size_guidance={"images": 0})
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == [(row["step"], pytest.approx(row["loss"], rel=1e-6)) for row in read_rows(run.log)]
    assert [event.step for event in events.Images("validation")] == [2, 4, 6, 8, 10, 12]
    assert (events.Images("validation")[0].width, events.Images("validation")[0].height) == (32, 32)
    assert json.loads(run.manifest.read_text())["train"]["finished"]


def test_without_trackers_there_is_no_folder(recipe: Path, tmp_path: Path) -> None:
    Workflow.start(load(recipe, [f"out={tmp_path}", "train.lr=1e-4", "trackers=[]"])).run(STAGES)
    assert not (tmp_path / "run/trackers").exists()


def test_a_tracker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, recipe: Path, tmp_path: Path) -> None:
    monkeypatch.setattr("ddspo.training.trackers.get_available_trackers", lambda: [])
    with pytest.raises(InputError, match="trackers: wandb is not installed: `pip install wandb`"):
        check_trackers(["wandb"])
    with pytest.raises(InputError, match="trackers: tensorboard is not installed"):
        Workflow.start(load(recipe, [f"out={tmp_path / 'runs'}"]))
    assert not (tmp_path / "runs").exists()


def test_a_tracker_that_is_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddspo.training.trackers.get_available_trackers", lambda: [LoggerType.TRACKIO])
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(InputError, match=r"trackers: trackio cannot be imported \(.*\): install it again"):
        check_trackers(["trackio"])


def test_a_score_needs_a_metric(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"validation.scored: nobody judges: name validation.metric"):
        Workflow.start(load(recipe, [f"out={tmp_path}", "validation.scored=2"]))


def test_trackers_are_closed_after_an_error(tmp_path: Path) -> None:
    accelerator = Accelerator(log_with=["tensorboard"], project_dir=str(tmp_path / "t"))

    def fail() -> None:
        with tracked(accelerator, "run", tmp_path / "t", {}):
            assert [tracker.name for tracker in accelerator.trackers] == ["tensorboard"]
            raise RuntimeError("x")

    with pytest.raises(RuntimeError, match="x"):
        fail()
    assert accelerator.trackers == []
