"""The identity that every objective rests on, in float64, and by hand."""

import pytest
import torch

from ddspo.maths.pair import Pair, cat, split
from ddspo.maths.reward import inner, margin, mean_square, reward

BETA = 16000.0


def draws(*names: str, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, 4, 8, 8, generator=generator, dtype=dtype) for _ in names]


def error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (prediction - target).square().mean(dim=(1, 2, 3))


def test_reward_is_the_difference_of_two_errors() -> None:
    policy, reference, target = draws("policy", "reference", "target")
    expected = BETA / 2 * (error(reference, target) - error(policy, target))
    torch.testing.assert_close(reward(policy - reference, target - reference, BETA), expected, rtol=1e-12, atol=1e-9)


def test_margin_is_the_published_inside_term() -> None:
    """u = -(beta / 2) [(L_w - L_l) of the policy - (L_w - L_l) of the reference]."""
    policy, other, reference, base, target, goal = draws(*"abcdef")
    model = error(policy, target) - error(other, goal)
    frozen = error(reference, target) - error(base, goal)
    d = Pair(policy - reference, other - base)
    a = Pair(target - reference, goal - base)
    torch.testing.assert_close(margin(d, a, BETA), -BETA / 2 * (model - frozen), rtol=1e-12, atol=1e-8)


def test_reward_by_hand() -> None:
    """d = (1, 0), a = (2, 4), beta = 3: <d, a> = 1, |d|^2 = 1/2, R = 3/2 (2 - 1/2) = 2.25."""
    d, a = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 4.0]])
    assert reward(d, a, 3.0).tolist() == [2.25]
    assert inner(d, a).tolist() == [1.0]
    assert mean_square(a).tolist() == [10.0]


def test_displacements_keep_what_two_float32_errors_lose() -> None:
    """A step of 1e-5 at beta 16000: the displacement form is within 1e-6 of the truth, the two errors are not."""
    step, reference, target = draws("step", "reference", "target", dtype=torch.float32)
    d, a = 1e-5 * step, target - reference
    truth = reward(d.double(), target.double() - reference.double(), BETA)
    ours = (reward(d, a, BETA).double() - truth).abs().max()
    policy = reference + d
    theirs = (BETA / 2 * (error(reference, target) - error(policy, target)).double() - truth).abs().max()
    assert ours < 1e-6
    assert theirs > 100 * ours


def test_one_latent_has_a_linear_margin() -> None:
    """With x_win = x_lose, a_win = 0 and a_lose = -g the squares cancel: u = beta <d, g>."""
    d, g = draws("d", "g")
    expected = BETA * inner(d, g)
    torch.testing.assert_close(
        margin(Pair(d, d), Pair(torch.zeros_like(g), -g), BETA), expected, rtol=1e-12, atol=1e-9
    )


def test_split_undoes_cat() -> None:
    win, lose = draws("win", "lose")
    assert all(torch.equal(x, y) for x, y in zip(split(cat(Pair(win, lose))), (win, lose), strict=True))
    assert Pair(1, 2).map(str) == Pair("1", "2")
    with pytest.raises(ValueError, match="even length"):
        split(win)
