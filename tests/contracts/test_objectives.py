"""The contract of every objective, alone and in every modifier."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from branches import at_random, gradients, surveyed
from holding import holding
from torch import Tensor

from ddspo import components
from ddspo.adaptations.lora import LoRA
from ddspo.errors import InputError
from ddspo.maths.pair import Pair
from ddspo.objectives._modifier import Modifier
from ddspo.objectives.base import Branches, Objective
from ddspo.objectives.logistic import Logistic
from ddspo.policy_pairs.base import PolicyPair
from ddspo.reference_policies.ema import EMAReference
from ddspo.stages.train import Method
from ddspo.training.drawing import Drawing
from ddspo.training.optimisation import Optimisation

FOUND = [components.find(Objective, name) for name in components.names(Objective)]
MODIFIERS = [cls for cls in FOUND if issubclass(cls, Modifier)]
ALONE: list[Objective] = [cls() for cls in FOUND if not issubclass(cls, Modifier)]
EVERY: list[Objective] = [*ALONE, *(cls(of=each) for cls in MODIFIERS for each in ALONE)]


def named(objective: Objective) -> str:
    within = f"-{components.name_of(objective.of)}" if isinstance(objective, Modifier) else ""
    return components.name_of(objective) + within


def of_every(only: Callable[[Objective], bool] = lambda _: True) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("objective", [each for each in EVERY if only(each)], ids=named)


def test_there_are_many() -> None:
    assert len(ALONE) >= 11
    assert len(MODIFIERS) >= 3


@of_every()
def test_a_loss_belongs_to_its_pair(objective: Objective) -> None:
    """[B]; pairs in another order have their losses in that order, and a loss has a gradient in its own pair alone."""
    seen = gentle(objective)
    loss = objective(seen)
    assert loss.shape == (4,)
    assert loss.dtype == torch.float64
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(objective(chosen(seen, order)), loss[order], rtol=1e-12, atol=0)
    for pair in range(4):
        found = torch.autograd.grad(objective(seen)[pair], list(seen.d), allow_unused=True, materialize_grads=True)
        rest = [row for row in range(4) if row != pair]
        assert not any(each[rest].any() for each in found)


def gentle(objective: Objective) -> Branches:
    """Random pairs whose margins are about .1 for a beta of 2000, with the mean that a step would find."""
    return surveyed(objective, at_random(size=0.01))


def chosen(seen: Branches, rows: Tensor) -> Branches:
    assert seen.gap is not None
    return replace(seen, d=seen.d.map(lambda x: x[rows]), a=seen.a.map(lambda x: x[rows]), gap=seen.gap[rows])


@of_every()
def test_losses_and_gradients_are_finite(objective: Objective) -> None:
    """In single precision, for displacements of nothing, of hardly anything and of far too much."""
    some, sizes = at_random(dtype=torch.float32), (0.0, 1e-20, 1.0, 1e3)
    for d, a in itertools.product(sizes, sizes):
        seen = replace(some, d=some.d.map(lambda x, d=d: d * x), a=some.a.map(lambda x, a=a: a * x))
        seen = surveyed(objective, seen)
        assert objective(seen).isfinite().all(), (d, a)
        assert all(each.isfinite().all() for each in gradients(objective, seen)), (d, a)


@of_every()
def test_what_is_not_needed_is_not_read(objective: Objective) -> None:
    """NaN in its place changes neither value nor gradient; without a reference, policy - target is all that counts."""
    seen, needs = gentle(objective), objective.needs
    nothing = torch.full_like(seen.d.win, math.nan)
    poisoned = seen
    if not needs.lose:
        poisoned = replace(poisoned, d=Pair(seen.d.win, nothing.clone().requires_grad_()), a=Pair(seen.a.win, nothing))
    if not needs.gap:
        poisoned = replace(poisoned, gap=nothing[:, 0, 0])
    if not needs.mean:
        poisoned = replace(poisoned, mean=nothing[0, 0, 0])
    if not needs.label and not isinstance(objective, Modifier):
        poisoned = replace(poisoned, label=nothing[:, 0, 0])
    assert torch.equal(objective(poisoned), objective(seen))
    assert torch.equal(gradients(objective, poisoned).win, gradients(objective, seen).win)
    if not needs.reference:
        moved = replace(seen, d=seen.d.map(lambda x: x + 3), a=seen.a.map(lambda x: x + 3))
        torch.testing.assert_close(objective(moved), objective(seen), rtol=1e-9, atol=1e-12)


@of_every(lambda each: each.needs.lose)
def test_what_is_needed_is_read(objective: Objective) -> None:
    """Another losing branch is another loss."""
    seen = gentle(objective)
    other = replace(seen, d=Pair(seen.d.win, seen.d.lose / 2))
    assert not torch.equal(objective(other), objective(seen))


@of_every()
def test_the_start(objective: Objective) -> None:
    """At policy = reference a steady objective has one loss whatever the targets, and margins are 0."""
    starts = []
    for seed in (0, 1):
        some = at_random(seed=seed)
        seen = surveyed(objective, replace(some, d=some.d.map(torch.zeros_like)))
        starts.append(objective(seen))
        u = objective.margin(seen)
        assert u is None or not u.any()
    losses = torch.cat(starts)
    one = torch.allclose(losses, losses[0].expand_as(losses), rtol=1e-12, atol=0)
    assert one == objective.steady


@of_every()
def test_plain_data_and_back(objective: Objective) -> None:
    assert components.construct(Objective, components.plain(objective), "objective") == objective
    assert components.docs(type(objective)).keys() == {each.name for each in dataclasses.fields(objective)}


REFUSED = {
    ("dspo", "training_free"): "loss and gradient are 0 at the start, whatever beta",
    ("kto", "training_free"): "a winner's reward is at most 0 there",
    ("sft", "training_free"): "its winning target is the model itself",
    ("sdpo", "training_free"): "as soon as it has one the loser, all the signal, is off",
}


@pytest.mark.parametrize("pair", components.names(PolicyPair))
@pytest.mark.parametrize("name", components.names(Objective))
def test_what_is_refused(name: str, pair: str) -> None:
    """In one line that says why, by every modifier around it too; and let through where it is forced."""
    objective, policy_pair = (components.find(kind, each)() for kind, each in ((Objective, name), (PolicyPair, pair)))
    reason = REFUSED.get((name, pair))
    for each in (objective, *(cls(of=objective) for cls in MODIFIERS if reason)):
        check(Method(policy_pair, each, LoRA(), force=True))
        if reason is None:
            check(Method(policy_pair, each, LoRA()))
            continue
        with pytest.raises(InputError) as caught:
            check(Method(policy_pair, each, LoRA()))
        line = str(caught.value)
        assert line.startswith(f"objective: {components.name_of(each)} with policy_pair {pair}: ")
        assert line.endswith(", or set force=true")
        assert "\n" not in line
        assert reason in line or components.name_of(each) == "sdpo"


def check(method: Method) -> None:
    method.check(Optimisation(), holding(degraded=True, scores=True))


def test_a_loser_that_nobody_reads_cannot_be_held_back() -> None:
    held = components.construct(Objective, {"sdpo": {"of": "sft"}}, "objective")
    with pytest.raises(
        InputError, match=r"^objective: sdpo with policy_pair forward_noise: the objective inside reads"
    ):
        check(Method(components.find(PolicyPair, "forward_noise")(), held, LoRA()))


@pytest.mark.parametrize(
    ("name", "pair", "drawing", "fine"),
    [
        ("mapo", "forward_noise", Drawing(), False),
        ("mapo", "training_free", Drawing(), True),  # its targets are the reference's
        ("mapo", "forward_noise", Drawing(anchor=1), True),
        ("logistic", "forward_noise", Drawing(), True),
    ],
)
def test_a_reference_that_moves_is_one_that_is_read(name: str, pair: str, drawing: Drawing, fine: bool) -> None:
    found = (components.find(PolicyPair, pair)(), components.find(Objective, name)())
    method = Method(*found, LoRA(), reference=EMAReference(), drawing=drawing)
    if fine:
        return check(method)
    with pytest.raises(InputError, match="reference: mapo with policy_pair forward_noise reads none: leave it out"):
        check(method)


def test_the_default_objective_inside_is_the_logistic_one() -> None:
    assert all(cls().of == Logistic() for cls in MODIFIERS)
