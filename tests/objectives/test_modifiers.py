"""Modifiers by hand: what they change and what they leave."""

import math
from dataclasses import replace

import pytest
import torch
from branches import at_random, by_hand, gradients, surveyed
from torch import Tensor
from torch.nn.functional import softplus

from ddspo.maths.reward import inner
from ddspo.objectives.base import Branches
from ddspo.objectives.dmpo import DMPO
from ddspo.objectives.gap_weight import GapWeight
from ddspo.objectives.kto import KTO
from ddspo.objectives.label_smoothing import LabelSmoothing
from ddspo.objectives.logistic import Logistic
from ddspo.objectives.regression import Regression
from ddspo.objectives.sdpo import SDPO
from ddspo.objectives.sft import SFT


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def with_errors(win: list[float], lose: list[float], scale: float = 1.0) -> Branches:
    """One element a pair: a = -e / 2 and d = e / 2, so that policy - target = e."""
    w, x = ([[scale * e / 2] for e in side] for side in (win, lose))
    return by_hand(w, [[-each[0]] for each in w], x, [[-each[0]] for each in x])


@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_sdpo_scales_each_losers_gradient(scale: float) -> None:
    """mu = 1/2: lambda = min(1, |e_win|^2 / (2 e_win e_lose)), and 1 where the product is not above 0.

    Of (e_win, e_lose) = (1, 2), (1, -2), (4, 1), (0, 1) and (-3, -2): 1/4, 1, min(1, 2), 1, 3/4; one number for
    all of them, 27 / (2 x 10), would hold nothing back. Losses and winners' gradients stay as they are. In units of
    1e-7 it is the same: a small number that were not relative would have its say there.
    """
    seen = with_errors([1, 1, 4, 0, -3], [2, -2, 1, 1, -2], scale)
    plain, held = Logistic(beta=2), SDPO(Logistic(beta=2), mu=0.5)
    assert torch.equal(held(seen), plain(seen))
    assert torch.equal(held.margin(seen), plain.margin(seen))
    before, after = gradients(plain, seen), gradients(held, seen)
    assert torch.equal(after.win, before.win)
    torch.testing.assert_close(after.lose, numbers(1 / 4, 1, 1, 1, 3 / 4)[:, None] * before.lose, rtol=1e-12, atol=0)


@pytest.mark.parametrize("mu", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("of", [Logistic(beta=3), DMPO(beta=3)])
def test_sdpo_lets_the_winner_learn(of: Logistic | DMPO, mu: float) -> None:
    """Down both gradients at once, |e_win|^2 falls by at least mu of what the winner's alone would give.

    <e_win, gradients of both> >= mu <e_win, that of the winner>, with equality wherever lambda is below 1.
    """
    seen = at_random(pairs=400)
    found = gradients(SDPO(of, mu=mu), seen)
    both, alone = (inner(seen.e.win, each) for each in (found.win + found.lose, found.win))
    sign = alone.sign()  # DMPO's optimum is finite, and beyond it both gradients turn round
    assert (sign * (both - mu * alone) > -1e-12).all()
    plain = gradients(of, seen).lose
    held = (found.lose - plain).abs().flatten(1).amax(1) > 1e-12
    assert held.sum() > 5
    torch.testing.assert_close(both[held], (mu * alone)[held], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_label_smoothing(share: float) -> None:
    """(1 - share) softplus(-u) + share softplus(u)."""
    seen = at_random()
    objective = LabelSmoothing(Logistic(beta=3), share)
    u = objective.margin(seen)
    torch.testing.assert_close(objective(seen), (1 - share) * softplus(-u) + share * softplus(u), rtol=1e-12, atol=0)


def test_label_smoothing_has_an_optimum() -> None:
    """share .1: sigma(-u) .9 = sigma(u) .1 at u = log 9; with beta 2, d = 1 and a = (1 + log 9) / 2, u is that."""
    seen = by_hand([[1]], [[(1 + math.log(9)) / 2]], [[0]], [[1]])
    objective = LabelSmoothing(Logistic(beta=2))
    assert objective.margin(seen).item() == pytest.approx(math.log(9))
    found = gradients(objective, seen)
    assert (found.win.item(), found.lose.item()) == pytest.approx((0, 0), abs=1e-15)


def test_a_pair_that_is_turned_round_keeps_its_gap() -> None:
    """Regression: .75 (u - gap)^2 + .25 (-u - gap)^2 is least at u = gap / 2; beta 2, d = 1, a = 1: u = 1, gap 2.

    With the gap turned round too, smoothing would change nothing.
    """
    seen = replace(by_hand([[1]], [[1]], [[0]], [[1]]), gap=numbers(2))
    objective = LabelSmoothing(Regression(beta=2), 0.25)
    assert objective(seen).item() == 0.75 * 1 + 0.25 * 9
    assert gradients(objective, seen).lose.item() == 0
    seen = replace(by_hand([[1]], [[3 / 2]], [[0]], [[1]]), gap=numbers(2))  # u = 2, and du/dd_win = 1
    assert gradients(objective, seen).win.item() == pytest.approx(0.75 * 2 * 0 + 0.25 * 2 * 4)


def test_smoothing_and_weighing_may_change_places() -> None:
    seen = at_random()
    one = LabelSmoothing(GapWeight(Logistic(beta=3)), 0.2)(seen)
    torch.testing.assert_close(one, GapWeight(LabelSmoothing(Logistic(beta=3), 0.2))(seen), rtol=1e-12, atol=0)
    assert one.unique().numel() > 2


def test_smoothing_of_single_samples_turns_their_labels() -> None:
    """.9 of one that is wanted and .1 of one that is not; what stands on the losing side is not read."""
    seen = by_hand([[1], [2]], [[2], [1]], [[math.nan]] * 2, [[math.nan]] * 2)
    seen = replace(seen, mean=numbers(1).mean())
    wanted, other = (KTO(beta=2)(replace(seen, label=sign * torch.ones(2))) for sign in (1, -1))
    found = LabelSmoothing(KTO(beta=2))(replace(seen, label=torch.ones(2)))
    torch.testing.assert_close(found, 0.9 * wanted + 0.1 * other)


def test_smoothing_of_plain_fine_tuning_reads_losers() -> None:
    """.9 |e_win|^2 + .1 |e_lose|^2."""
    objective = LabelSmoothing(SFT())
    assert objective.needs == (False, True, False, False, False)
    assert objective(with_errors([1], [3])).item() == pytest.approx(0.9 + 0.1 * 9)


def test_gap_weight() -> None:
    """A gap of spread log 3 has p = 3/4, and so 10 (2 p - 1) = 5 times u = 3; an error |e|^2 too."""
    seen = replace(by_hand([[1]], [[2]], [[2]], [[1]]), gap=numbers(0.2 * math.log(3)))
    assert GapWeight(Logistic(beta=2), spread=0.2).margin(seen).item() == pytest.approx(15, rel=1e-12)
    assert GapWeight(Logistic(beta=2), spread=0.2)(seen).item() == pytest.approx(math.log1p(math.exp(-15)), rel=1e-12)
    assert GapWeight(SFT(), spread=0.2)(seen).item() == pytest.approx(5 * 1)


def test_gap_weight_is_the_published_one() -> None:
    """10 (2 p - 1) with p the first of softmax of both scores, scaled from [.1154, .2820] to [0, 1]."""
    win, lose = numbers(0.25, 0.21, 0.2815), numbers(0.20, 0.20999, 0.1160)
    scaled = [(score - 0.1154) / (0.2820 - 0.1154) for score in (win, lose)]
    p = torch.stack(scaled).softmax(0)[0]
    seen = replace(at_random(pairs=3), gap=win - lose)
    expected = 10 * (2 * p - 1) * Logistic().margin(seen)
    torch.testing.assert_close(GapWeight(Logistic()).margin(seen), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gap", [0.0, -0.3])
def test_no_gap_teaches_nothing(gap: float) -> None:
    """u = 0: log 2, and gradients that are 0 and not NaN."""
    seen = replace(at_random(), gap=torch.full((4,), gap, dtype=torch.float64))
    torch.testing.assert_close(GapWeight()(seen), torch.full((4,), math.log(2), dtype=torch.float64))
    assert all(torch.equal(each, torch.zeros_like(each)) for each in gradients(GapWeight(), seen))


def test_a_mean_is_of_weighed_rewards() -> None:
    """KTO under weights 5 and 0: R = 3 and 0 become 15 and 0, and another pair's R of 4 and 1 become 0: z = 15 / 4."""
    seen = by_hand([[1], [2]], [[2], [2]], [[2], [1]], [[1], [1]])
    seen = replace(seen, gap=numbers(0.2 * math.log(3), 0))
    objective = GapWeight(KTO(beta=2), spread=0.2)
    assert surveyed(objective, seen).mean.item() == pytest.approx(15 / 4)
