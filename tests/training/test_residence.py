"""Where the parts of a model are while it is trained: on the accelerator only as long as something needs them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from ddspo import components
from ddspo.adaptations.lora import LoRA
from ddspo.backbones import _residence as module
from ddspo.backbones._residence import awake, other_parts, rest
from ddspo.backbones.base import Backbone
from ddspo.backbones.sd import SD
from ddspo.maths.pair import Pair
from ddspo.objectives.logistic import Logistic
from ddspo.pairs.data import PairData
from ddspo.policy_pairs.training_free import TrainingFree
from ddspo.progress import Progress
from ddspo.run_folder import RunFolder
from ddspo.stages.pretrain import Pretraining, pretrain
from ddspo.stages.train import Method, train
from ddspo.training.optimisation import Optimisation
from ddspo.training.texts import Encode
from ddspo.training.validation import Validation, Validator

AWAY = torch.device("meta")


class Places:
    """Stands in for a second device, which there is none of here: parts stay, and their places are written down."""

    def __init__(self, backbone: Backbone) -> None:
        self.names = {id(part): name for name, part in other_parts(backbone).items()}
        self.away: set[str] = set()

    def move(self, part: nn.Module, device: torch.device) -> None:
        (self.away.add if device == AWAY else self.away.discard)(self.names[id(part)])

    def place(self, part: nn.Module) -> torch.device:
        return AWAY if self.names[id(part)] in self.away else torch.device("cpu")

    def guarded(self, method: Any, name: str) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            assert name not in self.away
            return method(*given, **named)

        return call


@pytest.fixture
def backbone() -> SD:
    return SD.tiny()


@pytest.fixture
def places(backbone: SD, monkeypatch: pytest.MonkeyPatch) -> Places:
    """No part works while it is away."""
    found = Places(backbone)
    monkeypatch.setattr(module, "RESTING", AWAY)
    monkeypatch.setattr(module, "_move", found.move)
    monkeypatch.setattr(module, "_place", found.place)
    for name, method in (("text_encoder", "forward"), ("vae", "decode"), ("vae", "encode")):
        part = getattr(backbone.pipeline, name)
        monkeypatch.setattr(part, method, found.guarded(getattr(part, method), name))
    return found


def pairs(backbone: Backbone) -> PairData:
    latents = Pair(*torch.randn(2, 2, *backbone.latent_shape, generator=torch.Generator().manual_seed(0)))
    return PairData(["0", "1"], ["a", "b"], ["c", "d"], latents)


@pytest.mark.parametrize(("encode", "away"), [("before", {"text_encoder", "vae"}), ("during", {"vae"})])
def test_parts_rest_while_a_policy_is_trained(
    encode: Encode, away: set[str], backbone: SD, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And come back for every validation."""
    given = Validation(every=1, pictures=1, guidance=2.0, steps=1)
    items = [{"id": "v", "prompt": "a", "tag": ""}]

    def validator(base: Backbone) -> Validator:
        return Validator(given, base, items, None, 3, tmp_path / "v", Accelerator())

    seen: list[set[str]] = []
    predict = backbone.predict
    monkeypatch.setattr(backbone, "predict", lambda *given: seen.append(set(places.away)) or predict(*given))
    settings = Optimisation(steps=2, batch=2, device_batch=2, encode=encode)
    method = Method(TrainingFree(), Logistic(), LoRA(rank=2), validator=validator)
    train(RunFolder(tmp_path), backbone, pairs(backbone), method, settings, 3, Accelerator(), Progress(speaks=False))
    assert seen
    assert all(each == away for each in seen)
    assert len(list((tmp_path / "v").glob("*.png"))) == 2


def test_parts_rest_in_pretraining(backbone: SD, places: Places, tmp_path: Path) -> None:
    settings = Pretraining(LoRA(rank=2), Optimisation(steps=1, batch=2, device_batch=2))
    pretrain(RunFolder(tmp_path), backbone, pairs(backbone), settings, 3, Accelerator(), Progress(speaks=False))
    assert places.away == {"text_encoder", "vae"}


def test_all_are_awake_together_and_back_after_an_error(backbone: SD, places: Places) -> None:
    rest(backbone, texts=True)
    assert places.away == {"vae"}
    seen: list[set[str]] = []

    def fails() -> None:
        with awake(backbone):
            seen.append(set(places.away))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert seen == [set()]
    assert places.away == {"vae"}


@pytest.mark.parametrize("name", components.names(Backbone))
def test_texts_are_read_while_the_autoencoder_is_elsewhere(name: str) -> None:
    """On a device on which nothing can be computed; the text encoders are found by their names."""
    backbone: Backbone = components.find(Backbone, name).tiny()
    whole = backbone.encode(["a"])
    backbone.pipeline.vae.to(AWAY)
    for key, rows in backbone.encode(["a"]).items():
        assert rows.device.type == "cpu"
        assert torch.equal(rows, whole[key])
    parts = other_parts(backbone)
    assert {each for each in parts if not each.startswith(module.TEXTS)} == {"vae"}
    assert len(parts) > 1
