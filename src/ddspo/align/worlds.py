"""What a model is asked to draw: which prompts it is aligned with, and which are held out."""

from dataclasses import dataclass, field
from typing import Any

from ddspo.align.judges import PHOTOGRAPHS
from ddspo.align.rungs import Evaluation, Supervision
from ddspo.align.wish import MINIATURE, Wish

DATA = "package://ddspo.scenes/data"


@dataclass(frozen=True)
class World:
    """Parts of a recipe that depend on what is drawn.

    Attributes:
        prompts: Those that pairs are made of.
        evaluation: Held-out ones.
        validation: Others, on which a guidance scale is chosen and the policy is scored on the way.
        judges: Who may judge, the most important first.
        guards: What needs no weights and shows that images are spoilt.
        evaluate: Further options of the evaluation.
        usual: Sampler steps and guidance scale, if others than those of the model's family.
        why: What is said of the prompts.
    """

    prompts: Any
    evaluation: Any
    validation: Any
    judges: tuple[Any, ...]
    guards: tuple[Any, ...]
    evaluate: dict[str, Any] = field(default_factory=dict)
    usual: tuple[int, float] | None = None
    why: str = ""


def world_of(wish: Wish, supervision: Supervision, evaluation: Evaluation) -> World:
    """What is drawn, in so many pairs and so many held-out prompts."""
    if wish.model == MINIATURE:
        return _scenes(wish)
    made = {"compose": {"split": "alignment", "count": supervision.pairs}}
    return World(
        prompts=wish.prompts or made,
        evaluation={"compose": {"split": "evaluation", "count": evaluation.prompts, "classes": "coco"}},
        validation={"compose": {"split": "validation", "count": evaluation.scored, "classes": "coco"}},
        judges=PHOTOGRAPHS,
        guards=("saturation", {"latent_diversity": {"model": wish.model}}),
        why="yours" if wish.prompts else "made of nouns, colours, counts and relations; --prompts FILE takes yours",
    )


def _scenes(wish: Wish) -> World:
    """The embedded miniature's."""
    return World(
        prompts=wish.prompts or f"{DATA}/alignment.jsonl",
        evaluation=f"{DATA}/evaluation.jsonl",
        validation=f"{DATA}/validation.jsonl",
        judges=({"geneval": {"detector": "scenes"}},),
        guards=("saturation", {"latent_distance": {"model": MINIATURE}}),
        evaluate={"references": f"{DATA}/references.parquet"},
        usual=(15, 3.0),
        why="coloured shapes, all that the miniature draws",
    )
