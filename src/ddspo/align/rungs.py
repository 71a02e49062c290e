"""What there is to choose from, from the best to the cheapest: supervision, evaluation, and how it fits a device."""

from typing import NamedTuple


class Supervision(NamedTuple):
    """Pairs that are made, and updates of `batch` pairs that are made with them."""

    pairs: int
    updates: int
    batch: int


class Evaluation(NamedTuple):
    """Held-out prompts, images of each, and prompts that are scored on the way."""

    prompts: int
    images: int
    scored: int


class Placing(NamedTuple):
    """How weights and activations are held.

    Attributes:
        quantize: Precision of the frozen weights, if less than the model's own.
        checkpointing: Whether activations are computed again.
        offload: Whether blocks wait in main memory.
        halved: Whether images have half of their side.
    """

    quantize: str | None = None
    checkpointing: bool = False
    offload: bool = False
    halved: bool = False


SUPERVISION = (
    Supervision(1024, 30, 64),
    Supervision(512, 30, 32),
    Supervision(256, 30, 16),
)
"""From the most to the least that gained on the miniature; more updates move further, and gain no more."""

EVALUATIONS = (
    Evaluation(240, 4, 48),
    Evaluation(120, 4, 36),
    Evaluation(96, 2, 24),
    Evaluation(48, 2, 18),
    Evaluation(24, 2, 12),
    Evaluation(12, 2, 6),
)

AT_ONCE = (1, 2, 4, 8)
"""Pairs that training may hold at once."""
DRAWN_AT_ONCE = (1, 2, 4, 8, 16)
"""Images that may be sampled at once; a pair has two."""


def placings(*, transformer: bool, smaller: bool) -> list[Placing]:
    """Ways to hold a model, those first that lose least: neither time nor precision, then time, then precision.

    Args:
        transformer: Whether its weights may be quantised; those of a U-Net lose too much by it.
        smaller: Whether the model also draws at half of its side.
    """
    found = [Placing()]
    for halved in (False, True) if smaller else (False,):
        for quantize in (None, "int8", "nf4") if transformer else (None,):
            found.append(Placing(quantize, checkpointing=True, halved=halved))
    return [*found, Placing(checkpointing=True, offload=True, halved=smaller)]
