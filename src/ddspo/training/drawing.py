"""How the pairs of a step are drawn and weighed: options, and which of them fit together."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor
from typing_extensions import Doc

from ddspo.errors import InputError
from ddspo.maths.pair import Pair
from ddspo.maths.paths import NoisePath, Space
from ddspo.maths.reward import mean_square
from ddspo.objectives.base import Branches
from ddspo.policy_pairs.base import PolicyPair
from ddspo.schedules.base import Schedule
from ddspo.schedules.constant import Constant
from ddspo.timesteps.base import Timesteps
from ddspo.timesteps.uniform import Uniform


@dataclass(frozen=True)
class Drawing:
    """How the pairs of a step are drawn and weighed."""

    timesteps: Annotated[Timesteps, Doc("how often each time is drawn")] = field(default_factory=Uniform)
    noise: Annotated[
        Literal["shared", "independent", "generating"],
        Doc("one for both branches of a pair, one each, or that which each was sampled from (PNAPO, for flow models)"),
    ] = "shared"
    states: Annotated[
        Literal["renoised", "visited"],
        Doc("x_t: a latent with noise, or of the states that its sampler visited (sample.states) the nearest in time"),
    ] = "renoised"
    latents: Annotated[
        Literal["both", "winner", "loser"],
        Doc("winner, loser: both branches look at that one, which alone is sampled; of one noise, u is linear in d"),
    ] = "both"
    other_prompts: Annotated[
        Schedule, Doc("probability by time that a pair's prompts are those of another pair (random conditioning)")
    ] = field(default_factory=lambda: Constant(0.0))
    weight: Annotated[Schedule, Doc("omega(t) of a pair's loss")] = field(default_factory=Constant)
    error_space: Annotated[
        Space, Doc("in which quantity errors are measured; native is the network's own, x0 is usual for SD3")
    ] = "native"
    anchor: Annotated[
        float,
        Ge(0),
        Le(1e9),
        Doc("loss of a unit of |d|^2, mean of both branches; with one latent, beta / 2 keeps |d| below the gap"),
    ] = 0.0

    @property
    def one_state(self) -> bool:
        """Whether both branches look at the very same noised latent."""
        return self.latents != "both" and self.noise != "independent"

    @property
    def sides(self) -> tuple[str, ...]:
        """Of `win` and `lose` those that are looked at."""
        return {"winner": ("win",), "loser": ("lose",)}.get(self.latents, Pair._fields)

    @property
    def changes_prompts(self) -> bool:
        """Whether any pair may get the prompts of another."""
        return bool(self.other_prompts(torch.linspace(0, 1, 101)).max() > 0)


PLAIN = Drawing()
"""Uniform times, shared noise, both latents, own prompts, equal weights, the network's own errors."""


def check_drawing(
    drawing: Drawing, policy_pair: PolicyPair, prompts: Iterable[str] | None, *, contrasts: bool = True
) -> None:
    """Refuse options that contradict one another.

    Args:
        drawing: The options.
        policy_pair: Whose targets it draws for.
        prompts: Of the pairs; None: nobody has read them yet.
        contrasts: Whether the objective weighs the two branches of a pair against each other.

    Raises:
        InputError: The weight is zero everywhere, a probability exceeds 1, there is no other prompt, a single
            latent or visited states come with independent noise, or the policy pair does not allow other prompts, a
            single latent, two of them, or such states.
    """
    if not drawing.weight(torch.linspace(0, 1, 101)).max() > 0:
        raise InputError("draw.weight: it is 0 at every time, and nothing would be learned: give another schedule")
    most = float(drawing.other_prompts(torch.linspace(0, 1, 101)).max())
    if most > 1:
        raise InputError(f"draw.other_prompts: a probability of {most:g}: give a schedule within 0 and 1")
    if drawing.changes_prompts and prompts is not None and not _differ(prompts):
        raise InputError("draw.other_prompts: there is one prompt only: give more prompts, or leave the key out")
    if drawing.states == "visited" and drawing.noise != "shared":
        raise InputError("draw.noise: visited states hold their own noise: leave it out, or use states: renoised")
    if not policy_pair.scores:
        _check_noise_targets(drawing, policy_pair, contrasts)


def _check_noise_targets(drawing: Drawing, policy_pair: PolicyPair, contrasts: bool) -> None:
    name, sides = type(policy_pair).__module__.rpartition(".")[2], policy_pair.sides
    if drawing.changes_prompts:
        raise InputError(
            f"draw.other_prompts: {name} knows the noise of a latent, and nothing of another prompt: leave it out"
        )
    if drawing.latents != "both" and contrasts and sides.win == sides.lose:
        raise InputError(f"draw.latents: with {name} a single latent has a single target, and u = 0: use both")
    if drawing.latents != "winner" and sides.lose.degraded:
        raise InputError(f"draw.latents: {name} compares two prompts of one image, the winning one: use winner")
    if drawing.states == "visited":
        raise InputError(
            f"draw.states: {name} follows the noise that was added, and none was added to visited states: use renoised"
        )


def _differ(prompts: Iterable[str]) -> bool:
    """Whether there are two; no more are looked at than it takes."""
    every = iter(prompts)
    first = next(every, None)
    return any(prompt != first for prompt in every)


def in_space(seen: Branches, path: NoisePath, space: Space, t: Tensor) -> Branches:
    """The same displacements in another error space.

    d' = s d and a' = s a with s^2 = error_weight(space, t): u in that space is s^2 u for pairs of one time. In the
    native space nothing is touched.
    """
    return seen if space == "native" else seen.scaled(path.error_weight(space, t).sqrt())


def anchor(seen: Branches) -> Tensor:
    """(|d_win|^2 + |d_lose|^2) / 2, mean over the batch: what holds a policy near its reference whatever the loss.

    With one latent, a_win = 0 and a_lose = -g the margin is u = beta <d, g>, and softplus(-u) + lambda |d|^2 is least
    at d = beta sigma(-u) / (2 lambda) g, so that lambda = beta / 2 keeps d between 0 and g.
    """
    return (mean_square(seen.d.win).mean() + mean_square(seen.d.lose).mean()) / 2
