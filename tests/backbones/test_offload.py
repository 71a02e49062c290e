"""Weights that wait in main memory: the same numbers, and none of them stays where it was needed."""

import weakref
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from ddspo import components
from ddspo.adaptations.base import recompute_activations
from ddspo.adaptations.full import Full
from ddspo.adaptations.lora import LoRA
from ddspo.backbones._offload import SERVED, Serving
from ddspo.backbones._quantize import block_layers, quantize
from ddspo.backbones.base import Backbone, Model
from ddspo.backbones.sd import SD
from ddspo.errors import InputError
from ddspo.training.policies import Policies

PROMPTS = ["a red cube", "two cats"]
HOW = (None, "int8", "fp8", "nf4")


def step(backbone: Backbone) -> list[torch.Tensor]:
    """Prediction and gradients of a perturbed policy, its activations recomputed."""
    policies = Policies.of(backbone, LoRA(), seed=0)
    recompute_activations(backbone.denoiser)
    parameters, generator = policies.groups()["grad_norm"], torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in parameters:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    x = torch.randn(2, *backbone.latent_shape, generator=generator)
    frozen = policies.frozen(x, torch.tensor([10, 900]), backbone.encode(PROMPTS))
    y = policies.policy(x, torch.tensor([10, 900]), backbone.encode(PROMPTS))
    gradients = torch.autograd.grad(y.square().sum(), parameters, allow_unused=True)
    return [frozen, y.detach(), *(each for each in gradients if each is not None)]


@pytest.mark.parametrize("name", components.names(Backbone))
@pytest.mark.parametrize("how", HOW)
def test_nothing_is_computed_otherwise(name: str, how: Any) -> None:
    """To the bit; also of weights that are rounded."""
    plain, other = components.find(Backbone, name).tiny(), components.find(Backbone, name).tiny()
    for backbone in (plain, other):
        if how:
            quantize(backbone.denoiser, how)
    served = type(other).of(
        other.pipeline, Model("x", max_length=other.max_length, resolution=other.resolution, offload=True)
    )
    served.to("cpu")
    assert all(map(torch.equal, step(served), step(plain)))
    assert torch.equal(served.generate(PROMPTS, [1, 2], 1, 1.0), plain.generate(PROMPTS, [1, 2], 1, 1.0))


class Copies:
    """Stands in for an accelerator, which there is none of here: each weight that comes is a copy."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()
        self.most, self.calls, come = 0, 0, Serving.come

        def coming(serving: Serving, layer: Any, inputs: Any) -> None:
            come(serving, layer, inputs)
            layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
            self.alive.add(layer.weight.untyped_storage())
            self.most, self.calls = max(self.most, len(self.alive)), self.calls + 1

        monkeypatch.setattr(Serving, "come", coming)


def test_weights_go_when_a_layer_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is there at once; in the backward pass those of a block that runs again, and else all that it passes."""
    copies, most = Copies(monkeypatch), []
    for recomputes in (True, False):
        backbone = served()
        policies = Policies.of(backbone, LoRA(), seed=0)
        if recomputes:
            recompute_activations(backbone.denoiser)
        x, t, condition = torch.randn(1, *backbone.latent_shape), torch.tensor([5]), backbone.encode(["x"])
        copies.most = 0
        policies.frozen(x, t, condition)
        assert copies.most == 1
        policies.policy(x, t, condition).sum().backward()
        assert not copies.alive
        most.append(copies.most)
    assert most[0] < 0.35 * most[1]


def served() -> SD:
    return SD.of(SD.tiny().pipeline, Model("x", offload=True)).to("cpu")


def test_a_weight_goes_also_when_its_layer_fails() -> None:
    backbone = served()
    ((_, layer), *_) = block_layers(backbone.denoiser, (nn.Linear,))
    before = layer.weight
    with pytest.raises(RuntimeError):
        layer(torch.ones(1, 1, 1000))
    assert layer.weight is before


def test_all_else_moves() -> None:
    """To "meta", which is no main memory: what waits stays, and comes while its layer runs."""
    backbone = served().to("meta")
    waiting = {f"{name}.weight" for name, _ in block_layers(backbone.denoiser, SERVED)}
    found = {name for name, each in backbone.denoiser.named_parameters() if each.device.type == "cpu"}
    assert found == waiting
    assert backbone.device.type == "meta"
    assert next(backbone.pipeline.vae.parameters()).device.type == "meta"
    x, text = torch.empty(1, 4, 8, 8, device="meta"), torch.empty(1, 3, 16, device="meta")
    assert backbone.denoiser(x, 5, text).sample.is_meta
    assert {name for name, each in backbone.denoiser.named_parameters() if each.device.type == "cpu"} == waiting


def test_accelerate_leaves_them_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = served()
    monkeypatch.setattr(backbone.denoiser, "to", lambda *_: pytest.fail("moved"))
    Accelerator().prepare(backbone.denoiser)


def test_full_fine_tuning_is_refused() -> None:
    with pytest.raises(InputError, match="adaptation full"):
        Full().attach(served(), 0)


def test_a_weight_is_not_lost_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is full in the middle of the move leaves a network with its weights."""
    backbone = served()
    before = dict(backbone.denoiser.named_parameters())
    monkeypatch.setattr(backbone.pipeline, "to", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        backbone.to("meta")
    after = dict(backbone.denoiser.named_parameters())
    assert all(after[name] is each for name, each in before.items())
