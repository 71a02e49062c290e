"""What the loop does where an update is skipped or is the last one: a gradient scaler, and a rate that spoils all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from interruptions import history, killed_at
from safetensors.torch import load_file

from ddspo.adaptations.lora import LoRA
from ddspo.backbones.sd import SD
from ddspo.errors import Stopped
from ddspo.maths.pair import Pair
from ddspo.objectives.logistic import Logistic
from ddspo.pairs.data import PairData
from ddspo.policy_pairs.training_free import TrainingFree
from ddspo.progress import Progress
from ddspo.reference_policies.refreshed import RefreshedReference
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.stages.train import Method, train
from ddspo.training.fit import Fit
from ddspo.training.optimisation import Optimisation

SETTINGS = Optimisation(steps=8, batch=2, device_batch=2, lr=1e-3, warmup=4, checkpoint_every=1, average=0.9)
METHOD = Method(TrainingFree(), Logistic(beta=100), LoRA(rank=2, alpha=2))
MOVING = replace(METHOD, reference=RefreshedReference(every=2))


def fit(folder: Path, settings: Optimisation = SETTINGS, scale: float | None = None) -> RunFolder:
    """Train a tiny pipeline; with a scale, losses are scaled by it until no gradient overflows."""
    backbone, run, accelerator = SD.tiny(), RunFolder(folder), Accelerator()
    run.path.mkdir(exist_ok=True)
    latents = Pair(*torch.randn(2, 2, *backbone.latent_shape, generator=torch.Generator().manual_seed(0)))
    data = PairData(["p0", "p1"], ["a red cube", "two cats"], ["a", "b"], latents)
    if scale:
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
    method = MOVING if scale else METHOD
    train(run, backbone, data, method, settings, 3, accelerator, Progress(speaks=False))
    return run


@pytest.fixture
def unscaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate unscales where it has itself made the scaler, which it does on GPUs."""

    def unscale(self: Accelerator, optimizer: Any) -> None:
        if self.scaler:
            self.scaler.unscale_(optimizer.optimizer)

    monkeypatch.setattr(Accelerator, "unscale_gradients", unscale)


@pytest.mark.usefixtures("unscaled")
def test_a_skipped_update_moves_nothing(tmp_path: Path) -> None:
    """The first updates overflow and are skipped: the rate, the average and the reference wait for the first real one.

    With a warm-up of 4 the n-th update that is made has the rate (n - 1) / 4 of the peak.
    """
    run = fit(tmp_path / "run", scale=2.0**127)
    log = read_rows(run.log)
    skipped = [row["skipped"] for row in log]
    assert skipped[0] == 1
    assert 0 in skipped
    made = [row for row in log if not row["skipped"]]
    assert [row["lr"] for row in made] == pytest.approx([1e-3 * min(n / 4, 1) for n in range(len(made))])
    state = load_file(run.checkpoints / "0000001" / "weights.safetensors") if len(skipped) < 3 else None
    assert state is None or not any(value.any() for name, value in state.items() if "lora_B" in name)


@pytest.mark.usefixtures("unscaled")
def test_a_scaler_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between skipped and grown scales: log, weights, averages and the scaler's own state end the same."""
    whole = fit(tmp_path / "whole", scale=2.0**127)
    for step in (1, 6):
        with monkeypatch.context() as patch:
            killed_at(step, patch)
            with pytest.raises(KeyboardInterrupt):
                fit(tmp_path / "cut", scale=2.0**127)
    cut = fit(tmp_path / "cut", scale=2.0**127)
    assert history(cut.log) == history(whole.log)
    for name in ("weights", "average", "scaler", "optimizer"):
        file = f"checkpoints/0000008/{name}.safetensors"
        assert (cut.path / file).read_bytes() == (whole.path / file).read_bytes(), name
    assert read_rows(whole.log)[-1].keys() >= {"skipped"}


@pytest.mark.parametrize("steps", [1, 3])
def test_the_last_update_is_judged_before_it_is_saved(steps: int, tmp_path: Path) -> None:
    """Only the very last update spoils the weights: no loss of the training itself could show it."""
    settings = replace(SETTINGS, steps=steps, average=None, warmup=0, lr=1e30 if steps == 1 else 1e-3)
    run = RunFolder(tmp_path / "run")
    if steps > 1:
        with pytest.MonkeyPatch.context() as patch:
            updated = Fit._follow

            def spoiled(self: Fit) -> dict[str, float]:
                if self.done == steps - 1:
                    for parameter in self.groups["grad_norm"]:
                        parameter.data.fill_(float("nan"))
                return updated(self)

            patch.setattr(Fit, "_follow", spoiled)
            with pytest.raises(Stopped, match=r"loss is nan: lower the learning rate"):
                fit(run.path, settings)
    else:
        with pytest.raises(Stopped, match="lower the learning rate"):
            fit(run.path, settings)
    assert not run.aligned.exists()
    assert not (run.checkpoints / f"{steps:07d}").exists()
