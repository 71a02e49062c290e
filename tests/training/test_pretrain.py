"""Winner and loser learn side by side, and neither knows of the other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from ddspo.adaptations.base import Adaptation
from ddspo.adaptations.full import Full
from ddspo.adaptations.lora import LoRA
from ddspo.backbones.sd import SD
from ddspo.maths.pair import Pair
from ddspo.objectives.base import Loss
from ddspo.pairs.data import PairData
from ddspo.pairs.view import View
from ddspo.progress import Progress
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.stages import pretrain as pretraining
from ddspo.stages.pretrain import Pretraining, pretrain
from ddspo.training.batches import Batches
from ddspo.training.fit import Fit
from ddspo.training.optimisation import Optimisation
from ddspo.training.texts import TextsOnDemand

LORA = LoRA(rank=2, alpha=2)
QUIET = Progress(speaks=False)


def pairs(backbone: SD, loser: float = 1.0, prompts: tuple[str, ...] = ("a b", "c", "d e", "f")) -> PairData:
    x = torch.randn(4, *backbone.latent_shape, generator=torch.Generator().manual_seed(1))
    return PairData([f"p{number}" for number in range(4)], prompts, None, Pair(x.half(), (loser * x.flip(0)).half()))


class TwoGroups:
    """Two parameters whose gradients a test chooses."""

    def __init__(self) -> None:
        self.network = nn.ParameterDict({"a": nn.Parameter(torch.zeros(2)), "b": nn.Parameter(torch.zeros(2))})
        self.networks: list[nn.Module] = [self.network]
        self.frozen_networks: list[nn.Module] = []

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"a_norm": [self.network["a"]], "b_norm": [self.network["b"]]}

    def weights(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def restore(self, weights: dict[str, Tensor]) -> None:
        self.network.load_state_dict(weights)

    def updated(self, step: int) -> None:
        pass

    def step(self, view: View) -> Loss:
        """d loss / d a = (3, 4) and d loss / d b = (0.3, 0.4)."""
        pull = torch.tensor([3.0, 4.0])
        loss = (pull * self.network["a"]).sum() + (0.1 * pull * self.network["b"]).sum() + 1
        return Loss(loss, {"sum": loss.detach()})


class Scaled(Accelerator):
    """Scales losses as in half precision, by 1024, without needing a GPU for it."""

    def backward(self, loss: Tensor, **options: Any) -> None:
        super().backward(1024 * loss, **options)

    def unscale_gradients(self, optimizer: Any = None) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad /= 1024


@pytest.mark.parametrize("accelerator", [Accelerator, Scaled])
def test_groups_are_clipped_each_on_its_own(accelerator: type[Accelerator], tmp_path: Path) -> None:
    """Norms 5 and 0.5 with a limit of 1: (3, 4) becomes (0.6, 0.8), and (0.3, 0.4) stays.

    Clipped together, of norm sqrt(25 + 0.25) = 5.02, the second would shrink to a fifth; clipped before a scale is
    taken back, both would nearly vanish.
    """
    backbone, two = SD.tiny(), TwoGroups()
    data = pairs(backbone)
    fit = Fit(
        name="pretrain",
        accelerator=accelerator(),
        trained=two,
        step=two.step,
        batches=Batches(data, TextsOnDemand(backbone), 2, 0, backbone.path),
        settings=Optimisation(steps=1, batch=2, device_batch=2, max_grad_norm=1.0, lr=2e-3, weight_decay=0.3),
        folder=RunFolder(tmp_path),
    )
    settings = fit.optimizer.param_groups[0]
    assert {name: settings[name] for name in ("lr", "weight_decay", "betas", "eps")} == {
        **{"lr": 2e-3, "weight_decay": 0.3},
        **{"betas": (0.9, 0.999), "eps": 1e-8},
    }
    seen: list[Tensor] = []
    optimizer: torch.optim.Optimizer = fit.optimizer.optimizer
    optimizer.register_step_pre_hook(lambda *_: seen.extend(p.grad.clone() for p in two.network.values()))
    fit.run(QUIET)
    torch.testing.assert_close(torch.stack(seen), torch.tensor([[0.6, 0.8], [0.3, 0.4]]), rtol=1e-5, atol=1e-6)
    row = read_rows(tmp_path / "log.jsonl")[0]
    assert (row["a_norm"], row["b_norm"], row["loss"]) == pytest.approx((5.0, 0.5, 1.0))


@pytest.mark.parametrize("adaptation", [LORA, Full()])
def test_the_winner_does_not_depend_on_the_losers(adaptation: Adaptation, tmp_path: Path) -> None:
    """Whatever the losing latents are, and however large the loser's gradient, the winner comes out the same."""
    winners, losers = [], []
    settings = Pretraining(adaptation, Optimisation(steps=3, batch=2, device_batch=1, lr=1e-2, max_grad_norm=0.01))
    for scale in (1.0, 30.0):
        backbone, run = SD.tiny(), RunFolder(tmp_path / f"{scale:g}")
        pretrain(run, backbone, pairs(backbone, loser=scale), settings, 3, Accelerator(), QUIET)
        for who, found in (("winner", winners), ("loser", losers)):
            fresh = SD.tiny()
            adaptation.load(fresh, run.policies / who)
            x = torch.ones(1, *fresh.latent_shape)
            with torch.no_grad():
                found.append(fresh.predict(fresh.denoiser, x, torch.tensor([500]), fresh.encode(["a b"])))
    torch.testing.assert_close(winners[0], winners[1], rtol=1e-5, atol=1e-6)
    assert (losers[0] - losers[1]).abs().max() > 1e-4
    assert (winners[0] - losers[0]).abs().max() > 1e-4


def test_what_is_saved_is_the_average_and_noise_is_each_sides_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Winner and loser as files hold the averages of the last checkpoint, in order, and not its weights."""
    views: list[View] = []
    step = pretraining.imitation_step
    monkeypatch.setattr(pretraining, "imitation_step", lambda who, view: views.append(view) or step(who, view))
    backbone, run = SD.tiny(), RunFolder(tmp_path)
    settings = Pretraining(LORA, Optimisation(steps=3, batch=2, device_batch=2, lr=1e-2, average=0.9))
    pretrain(run, backbone, pairs(backbone), settings, 3, Accelerator(), QUIET)
    last = run.pretraining.checkpoints / "0000003"
    average, weights = (load_file(last / f"{name}.safetensors") for name in ("average", "weights"))
    saved = [load_file(run.policies / who / "pytorch_lora_weights.safetensors") for who in ("winner", "loser")]
    found = [sum(float(value.double().sum()) for value in part.values()) for part in saved]
    averages = [value for _, value in sorted(average.items(), key=lambda each: int(each[0]))]
    half = len(averages) // 2
    expected = [sum(float(value.double().sum()) for value in part) for part in (averages[:half], averages[half:])]
    assert found == pytest.approx(expected, rel=1e-5)
    for side, value in zip(Pair("win", "lose"), found, strict=True):
        raw = sum(float(each.double().sum()) for name, each in weights.items() if name.startswith(side))
        assert abs(value - raw) > 1e-3
    drawn = [name for name in saved[0] if "lora_A" in name or "down" in name]
    apart = torch.cat([(saved[0][name] - saved[1][name]).flatten() for name in drawn])
    assert apart.std() == pytest.approx(0.5 * 2**0.5, rel=0.15)  # drawn each on its own, of standard deviation 1/2
    assert len(views) == 3 + 1  # the last one is looked at once more
    for view in views:
        assert (view.noise.win * view.noise.lose).mean().abs() < 0.3
        assert (view.noise.win - view.noise.lose).std() > 1


def test_accumulation_changes_nothing_but_memory(tmp_path: Path) -> None:
    """One loop after another with one accelerator, each with its own number of micro-batches an update."""
    accelerator, found = Accelerator(), []
    for device_batch in (4, 1, 2):
        backbone, run = SD.tiny(), RunFolder(tmp_path / str(device_batch))
        settings = Pretraining(LORA, Optimisation(steps=3, batch=4, device_batch=device_batch, lr=1e-3))
        pretrain(run, backbone, pairs(backbone), settings, 3, accelerator, QUIET)
        rows = read_rows(run.pretraining.log)
        assert [row["step"] for row in rows] == [1, 2, 3]
        found.append([row["loss"] for row in rows])
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[2] == pytest.approx(found[0], rel=1e-4)
