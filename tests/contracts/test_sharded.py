"""Weights in shares, for every backbone: FSDP2 gathers blocks by itself, and nothing a step reads lies outside."""

from collections.abc import Iterator

import pytest
import torch
from test_backbones import ADAPTATIONS, BACKBONES, PROMPTS, shake, view_of
from torch import distributed
from torch.distributed.tensor import DTensor

from ddspo import components
from ddspo.adaptations.base import Adaptation
from ddspo.backbones.base import Backbone
from ddspo.objectives.logistic import Logistic
from ddspo.policy_pairs.training_free import TrainingFree
from ddspo.training import sharding
from ddspo.training.policies import Policies
from ddspo.training.steps import preference_step


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    """A group of this process alone, whose shares are whole, and which goes all the ways of a larger one."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def policies_of(backbone: str, adaptation: str, *, shares: bool) -> Policies:
    """Of a tiny pipeline, away from its start."""
    made = Policies.of(components.find(Backbone, backbone).tiny(), components.find(Adaptation, adaptation)(), 0)
    shake(made.groups()["grad_norm"], torch.Generator().manual_seed(3))
    if shares:
        sharding.shard([*made.networks, *made.frozen_networks], torch.device("cpu"), processes=1)
    return made


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
@pytest.mark.parametrize("name", BACKBONES)
def test_fsdp_step_is_the_same(name: str, adaptation: str) -> None:
    """Loss and every gradient of a training-free step, whose first predictions are with adapters off.

    Gradients to the rounding of sums over memory that lies otherwise.
    """
    found = []
    for shares in (False, True):
        policies = policies_of(name, adaptation, shares=shares)
        loss = preference_step(policies, TrainingFree(), Logistic(beta=100.0), view_of(policies.backbone)).value
        loss.backward()
        gradients = [parameter.grad for parameter in policies.groups()["grad_norm"]]
        assert all(isinstance(each, DTensor) == shares for each in gradients if each is not None)
        found.append((loss.detach(), sharding.gathered({str(n): g for n, g in enumerate(gradients) if g is not None})))
    (plain, gradients), (sharded, others) = found
    assert torch.equal(plain, sharded)
    assert others.keys() == gradients.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(others[key], gradient, rtol=0, atol=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize("name", BACKBONES)
def test_fsdp_draws_with_whole_weights(name: str) -> None:
    """The same sample, as often as it is asked for; afterwards weights are in shares again, and a step can be made."""
    plain, sharded = (policies_of(name, "lora", shares=shares) for shares in (False, True))
    expected = plain.backbone.generate(PROMPTS[:1], [1], 2, 1.0)
    with sharding.whole(sharded.networks):
        for _ in range(2):
            assert torch.equal(sharded.backbone.generate(PROMPTS[:1], [1], 2, 1.0), expected)
    assert all(isinstance(parameter, DTensor) for parameter in sharded.denoiser.parameters())
    loss = preference_step(sharded, TrainingFree(), Logistic(beta=100.0), view_of(sharded.backbone)).value
    loss.backward()
    assert all(parameter.grad is not None for parameter in sharded.groups()["grad_norm"][:2])
