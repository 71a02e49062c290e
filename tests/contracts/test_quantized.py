"""The contract of every backbone whose frozen weights are rounded: a LoRA on top trains as on plain ones."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest
import torch
from test_backbones import BACKBONES, PAIRS, PROMPTS, inputs, perturb, policies_for, shake, trained, unread, view_of

from ddspo import components
from ddspo.adaptations.base import recompute_activations
from ddspo.adaptations.lora import LoRA
from ddspo.backbones._model import Quantization
from ddspo.backbones._quantize import quantize
from ddspo.backbones.base import Backbone
from ddspo.backbones.sd3 import SD3
from ddspo.maths.pair import Pair
from ddspo.objectives.logistic import Logistic
from ddspo.policy_pairs.base import PolicyPair
from ddspo.policy_pairs.training_free import TrainingFree
from ddspo.training.imitation import Imitators, imitation_step
from ddspo.training.policies import Policies
from ddspo.training.steps import preference_step

HOW = get_args(Quantization)
LORA = LoRA()


@pytest.fixture(params=BACKBONES)
def plain(request: pytest.FixtureRequest) -> Backbone:
    return components.find(Backbone, request.param).tiny()


@pytest.fixture(params=HOW)
def how(request: pytest.FixtureRequest) -> Quantization:
    return request.param


@pytest.fixture
def backbone(plain: Backbone, how: Quantization) -> Backbone:
    quantize(plain.denoiser, how)
    return plain


def prediction(backbone: Backbone) -> torch.Tensor:
    x, t = inputs(backbone)
    with torch.no_grad():
        return backbone.predict(backbone.denoiser, x, t, backbone.encode(PROMPTS))


def test_it_predicts_nearly_the_same(plain: Backbone, how: Quantization) -> None:
    """Weights move by 1 % in 8 bits, 3 % in a float of 8 bits, 9 % in 4 (their root mean square, of normal ones)."""
    assert not plain.quantized
    before = prediction(plain)
    quantize(plain.denoiser, how)
    assert plain.quantized
    assert plain.compute_dtype == torch.float32
    moved = (prediction(plain) - before).norm() / before.norm()
    assert 0 < moved < {"int8": 0.03, "fp8": 0.08, "nf4": 0.25}[how]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch, of its own rms_norm
def test_policy_and_reference_are_the_same_at_the_start(
    plain: Backbone, how: Quantization, dtype: torch.dtype
) -> None:
    """To the bit: d is 0, with gradient and without, in either order, and under autocast."""
    plain.pipeline.to(dtype=dtype)
    quantize(plain.denoiser, how)
    policies = Policies.of(plain, LORA, seed=0)
    assert {parameter.dtype for parameter in trained(policies)} == {torch.float32}
    view = view_of(plain)
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        before = policies.frozen(view.x_t.win, view.t, view.condition)
        assert torch.equal(policies.policy(view.x_t.win, view.t, view.condition), before)
        assert torch.equal(policies.frozen(view.x_t.win, view.t, view.condition), before)
        loss = preference_step(policies, TrainingFree(), Logistic(beta=2000), view)
    assert loss.log["win_displacement"].item() == 0
    assert loss.log["gap"].item() > 0
    loss.value.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained(policies))


@pytest.mark.parametrize("pair", PAIRS)
def test_gradients_reach_the_adapters(backbone: Backbone, pair: str, tmp_path: Path) -> None:
    """A and B of every layer, but for the queries of the last block of SD3 and Qwen-Image, which nothing reads.

    Winner and loser of the data-driven pair were trained beside plain weights here, and are read all the same.
    """
    policies = policies_for(backbone, LORA, pair, tmp_path)
    perturb(policies)
    preference_step(
        policies, components.find(PolicyPair, pair)(), Logistic(beta=10), view_of(backbone)
    ).value.backward()
    found = {name for name, each in policies.denoiser.named_parameters() if each.grad is not None and each.grad.any()}
    wanted = {name for name, each in policies.denoiser.named_parameters() if each.requires_grad}
    assert all(".lora_" in name for name in wanted)
    assert {name for name in wanted - found if not unread(backbone, name)} == set()


def test_the_gradient_is_that_of_the_rounded_weights(plain: Backbone, how: Quantization) -> None:
    """Of a plain network with the rounded weights put back into it, also where activations are recomputed."""
    rounded = copy.deepcopy(plain)
    quantize(rounded.denoiser, how)
    put_back(plain.denoiser, rounded.denoiser)
    gradients = []
    for backbone in (plain, rounded):
        policies = Policies.of(backbone, LORA, seed=0)
        perturb(policies)
        gradients.append(gradients_of(policies))
    recompute_activations(rounded.denoiser)
    gradients.append(gradients_of(policies))
    for one, other, again in zip(*gradients, strict=True):
        assert (one is None) == (other is None) == (again is None)
        if one is not None and other is not None and again is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
            assert torch.equal(other, again)


def gradients_of(policies: Policies) -> Sequence[torch.Tensor | None]:
    loss = preference_step(policies, TrainingFree(), Logistic(beta=10), view_of(policies.backbone)).value
    return torch.autograd.grad(loss, trained(policies), allow_unused=True)


@torch.no_grad()
def put_back(plain: torch.nn.Module, rounded: torch.nn.Module) -> None:
    """What a layer does to the unit vectors is its matrix."""
    for name, layer in rounded.named_modules():
        if isinstance(layer, torch.nn.Linear) and not layer.weight.is_floating_point():
            own = plain.get_submodule(name)
            bias = 0 if layer.bias is None else layer.bias
            own.weight.copy_((layer(torch.eye(layer.in_features)) - bias).T)  # type: ignore[operator, union-attr]


def test_winner_and_loser_are_pretrained_beside_them(backbone: Backbone) -> None:
    imitators = Imitators.of(backbone, LORA, Pair(1, 2))
    parameters = [each for group in imitators.groups().values() for each in group]
    shake(parameters, torch.Generator().manual_seed(3))
    imitation_step(imitators, view_of(backbone)).value.backward()
    assert sum(parameter.grad is None for parameter in parameters) <= (4 if isinstance(backbone, SD3) else 0)


def test_a_copy_on_the_way_is_frozen_and_the_same(backbone: Backbone) -> None:
    """The reference that moves, and the weights' average, are further adapters beside the one base."""
    policies = Policies.of(backbone, LORA, seed=0)
    perturb(policies)
    x, t = inputs(backbone)
    condition = backbone.encode(PROMPTS)
    twin = LORA.twin(backbone, policies.trained, "twin")
    with twin.open() as network, torch.no_grad():
        copied = backbone.predict(network, x, t, condition)
    assert torch.equal(copied, policies.policy(x, t, condition))
    assert not any(parameter.requires_grad for parameter in LORA.parameters(twin))


def test_an_evaluation_keeps_the_adapter(plain: Backbone, how: Quantization, tmp_path: Path) -> None:
    """A file of a LoRA draws as the policy did, to the bit."""
    quantize(plain.denoiser, how)
    other = copy.deepcopy(plain)
    before = prediction(plain)
    policies = Policies.of(plain, LORA, seed=0)
    perturb(policies)
    moved = prediction(plain)
    LORA.save(plain, tmp_path)
    LORA.load(other, tmp_path)
    assert torch.equal(prediction(other), moved)
    assert not torch.equal(moved, before)
    assert torch.isfinite(other.generate(PROMPTS, [1, 2, 3], 1, 1.0)).all()
