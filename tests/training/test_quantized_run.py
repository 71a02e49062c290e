"""Runs beside rounded weights and weights that wait: interrupted, evaluated, merged, and what is refused."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from interruptions import killed_at
from safetensors.torch import load_file
from torch import nn

from ddspo import checks
from ddspo.adaptations.lora import LoRA
from ddspo.backbones._quantize import EightBits
from ddspo.backbones.base import Model
from ddspo.backbones.sd import SD
from ddspo.errors import InputError
from ddspo.exports.base import Aligned
from ddspo.exports.merged import Merged
from ddspo.recipe import load
from ddspo.run_folder import RunFolder
from ddspo.workflow import Workflow

RECIPE = """
name: run
model: {path: MODEL, quantize: nf4}
prompts: PROMPTS
sample: {pairs: 4, steps: 2, guidance: 1.0, batch: 4}
adaptation: {lora: {rank: 2}}
reference: {ema: {decay: 0.5}}
train: {steps: 4, batch: 4, device_batch: 4, lr: 0.01, checkpoint_every: 2, average: 0.5}
validation: {final: 0}
trackers: []
"""
STAGES = ("degrade", "sample", "train")
WAITING = ("model.offload=true", "train.gradient_checkpointing=true")
DATA_DRIVEN = "policy_pair=data_driven"


def run(recipe: Path, name: str, *overrides: str) -> RunFolder:
    out = recipe.parent / "runs"
    Workflow.start(load(recipe, [f"out={out}", f"name={name}", *overrides])).run(STAGES)
    return RunFolder(out / name)


def trained(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.aligned / "pytorch_lora_weights.safetensors")


def test_an_interrupted_run_ends_the_same(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a moving reference and averaged weights.

    It was begun with weights that wait and goes on without: that is mechanical, and what they are rounded to is not.
    """
    whole = trained(run(recipe, "whole"))
    assert any(value.any() for name, value in whole.items() if "lora_B" in name or "up" in name)
    with monkeypatch.context() as killing:
        killed_at(3, killing)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, "killed", *WAITING)
    with pytest.raises(InputError, match=r"model\.quantize"):
        run(recipe, "killed", "model.quantize=int8")
    again = trained(run(recipe, "killed"))
    assert all(torch.equal(again[name], value) for name, value in whole.items())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adaptation=full"], "train: full trains weights that model.quantize rounds: use lora"),
        (
            [DATA_DRIVEN, "pretrain.adaptation=full"],
            "pretrain.train: full trains weights that model.quantize rounds: use lora",
        ),
        (["adaptation=full", "model.quantize=null", "model.offload=true"], "train: full .* model.offload moves"),
        (["model.offload=true"], "model.offload: .* set train.gradient_checkpointing=true"),
        (
            [DATA_DRIVEN, *WAITING],
            "set pretrain.train.gradient_checkpointing=true",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(overrides: list[str], message: str, recipe: Path) -> None:
    with pytest.raises(InputError, match=message):
        Workflow.start(load(recipe, [f"out={recipe.parent / 'runs'}", *overrides]))


def test_one_process_alone_has_weights_that_wait(recipe: Path) -> None:
    with pytest.raises(InputError, match=r"model.offload: 2 processes"):
        checks._check_memory_options(load(recipe, WAITING), 2)


def test_a_merged_export_is_of_the_whole_weights(tiny_folder: Path, tmp_path: Path) -> None:
    """What a run beside rounded weights learned is added to the weights before rounding, and nothing is rounded."""
    backbone = SD.load(Model(str(tiny_folder), quantize="nf4"))
    behaviour = LoRA().attach(backbone, 0).policy
    for parameter in LoRA().parameters(behaviour):
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(3))
    LoRA().save(backbone, tmp_path / "aligned")
    for how in (None, "nf4"):
        Merged().write(
            Aligned("run", tmp_path / "aligned", Model(str(tiny_folder), quantize=how), SD), tmp_path / str(how)
        )
    plain, other = (SD.load(Model(str(tmp_path / name))).denoiser.state_dict() for name in ("None", "nf4"))
    assert plain.keys() == other.keys()
    assert all(torch.equal(other[name], value) for name, value in plain.items())


def test_accelerate_takes_a_rounded_network(tiny_folder: Path) -> None:
    backbone = SD.load(Model(str(tiny_folder), quantize="int8"))
    network = Accelerator().prepare(backbone.denoiser)
    assert any(isinstance(layer, EightBits) for layer in network.modules())
