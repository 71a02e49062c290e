"""The implicit reward of a displacement: the identity on which every objective here rests."""

from torch import Tensor

from ddspo.maths.pair import Pair


def mean_square(x: Tensor) -> Tensor:
    """|x|^2 as the mean over all dimensions but the first: [B, ...] to [B]."""
    return x.square().flatten(1).mean(1)


def inner(x: Tensor, y: Tensor) -> Tensor:
    """<x, y> as the mean over all dimensions but the first: [B, ...] to [B]."""
    return (x * y).flatten(1).mean(1)


def reward(d: Tensor, a: Tensor, beta: float) -> Tensor:
    """R = (beta / 2) (2 <d, a> - |d|^2), [B].

    Equal to (beta / 2) (|reference - target|^2 - |policy - target|^2), but free of the cancellation of two large
    errors: d and a are formed first, in float32 or better.

    Args:
        d: Model displacement, policy - reference, [B, ...].
        a: Target displacement, target - reference, [B, ...].
        beta: Inverse temperature, for errors that are means over dimensions.
    """
    return beta / 2 * (2 * inner(d, a) - mean_square(d))


def margin(d: Pair[Tensor], a: Pair[Tensor], beta: float) -> Tensor:
    """u = R_win - R_lose, [B]; positive where the policy prefers the winner more than the reference does."""
    return reward(d.win, a.win, beta) - reward(d.lose, a.lose, beta)
