"""Seconds of a run by its stages: by hand, and measured on a model that is afterwards what it was."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from ddspo.backbones.base import Backbone, Model
from ddspo.backbones.sd import SD
from ddspo.cost.speed import Speed, assumed, measured, seconds
from ddspo.cost.total import cost
from ddspo.recipe import Recipe, load

SCENES = Path(__file__).parents[1] / "recipes/scenes.yaml"
SETTINGS = [
    *("sample.pairs=6", "sample.steps=5", "sample.guidance=3", "sample.batch=2", "adaptation.lora.rank=2"),
    *("train.steps=3", "train.batch=4", "train.device_batch=2", "evaluate=null"),
    *(
        "validation.every=2",
        "validation.steps=4",
        "validation.guidance=1",
        "validation.scored=6",
        "validation.pictures=6",
    ),
    *("validation.final=3",),
]


def recipe(folder: Path, *overrides: str) -> Recipe:
    return load(SCENES, [*SETTINGS, f"model.path={folder}", *overrides])


def test_seconds_by_hand(tiny_folder: Path) -> None:
    """With 1 s to load, 10 s a text, 100 s a forward, 1000 s a pair and 10 000 s an image.

    sample: loads once; 12 latents, each with two texts under guidance, take 120 forwards. texts: 12. train: loads
    once, 12 pairs. validation: the base and the policy once, 6 images of 4 forwards and one text each. pictures: loads
    once, 2 x 3 images.
    """
    found = cost(recipe(tiny_folder))
    times = seconds(found, Speed(load=1, text=10, forward=100, pair=1000, image=10_000))
    assert times == {
        "degrade": 0,
        "sample": 1 + 24 * 10 + 120 * 100,
        "texts": 12 * 10,
        "train": 1 + 12 * 1000,
        "validation": 12 * (10 + 400 + 10_000),
        "pictures": 1 + 6 * (10 + 400 + 10_000),
    }


def test_a_pair_in_pretraining_takes_its_share(tiny_folder: Path) -> None:
    """2 forwards and 2 backwards are 6 forwards; with 4 frozen ones a pair of `train` takes 10. 5 updates of 4."""
    given = ["policy_pair=data_driven", "pretrain.train.steps=5", "pretrain.train.batch=4"]
    found = cost(recipe(tiny_folder, *given, "pretrain.train.device_batch=4"))
    assert seconds(found, Speed(0, 0, 0, 1, 0))["pretrain"] == pytest.approx(20 * 6 / 10)


def test_an_assumed_rate_by_hand(tiny_folder: Path) -> None:
    """A training-free pair takes 3 frozen forwards, 2 of the policy and 2 backwards of 2: 9 forwards."""
    given = recipe(tiny_folder)
    found = cost(given)
    speed, work = assumed(given, 1e6, found), found.work
    assert speed.forward == work.forward_flops / 1e6
    assert speed.pair == pytest.approx(9 * speed.forward)
    assert (speed.text, speed.image) == (work.text_flops / 1e6, work.image_flops / 1e6)
    assert speed.load == found.host.model_bytes / 1e9
    assert min(speed) > 0


@pytest.mark.parametrize("adaptation", ["adaptation.lora.rank=2", "adaptation=full"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_measured_model_is_what_it_was(tiny_folder: Path, adaptation: str, dtype: str) -> None:
    """Its images are the same to the bit, and so are its layers, their weights, precision and flags."""
    given = recipe(tiny_folder, adaptation, f"model.dtype={dtype}", "train.gradient_checkpointing=true")
    backbone = SD.load(Model(str(tiny_folder), dtype=dtype))
    before, latents = state(backbone), backbone.generate(["a", "b"], [1, 2], 3, 2.0)
    numbers = torch.get_rng_state()
    speed = measured(given, backbone, load=7.0)
    assert torch.equal(numbers, torch.get_rng_state())
    assert speed.load == 7
    assert min(speed) > 0
    after = state(backbone)
    assert before.keys() == after.keys()
    for name, (weight, flag, training) in before.items():
        assert after[name][0].dtype == weight.dtype
        assert torch.equal(after[name][0], weight)
        assert after[name][1:] == (flag, training)
    assert torch.equal(latents, backbone.generate(["a", "b"], [1, 2], 3, 2.0))
    network: Any = backbone.denoiser
    assert not network.is_gradient_checkpointing


def state(backbone: Backbone) -> dict[str, tuple[torch.Tensor, bool, bool]]:
    network = backbone.denoiser
    return {
        name: (copy.deepcopy(each.detach()), each.requires_grad, network.training)
        for name, each in network.named_parameters()
    }
