"""Memory of the accelerator while a stage trains: weights, and what a step of the true model holds beside them.

The networks are built on the "meta" device, where a tensor has a shape and no memory, and the adaptation is attached
to them as training attaches it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

import torch
from torch import nn
from typing_extensions import Doc

from ddspo.adaptations.base import Behaviour
from ddspo.backbones._residence import TEXTS, other_parts
from ddspo.backbones.base import Backbone, Model
from ddspo.conditions import Condition
from ddspo.cost._once import once
from ddspo.cost.activations import of_step, of_texts
from ddspo.cost.shapes import BRANCHES, base_of, condition_shapes, model_outline, network_size, size, view_of
from ddspo.maths.pair import Pair
from ddspo.objectives.base import Loss
from ddspo.recipe import Recipe
from ddspo.training.drawing import Drawing
from ddspo.training.imitation import Imitators, imitation_step
from ddspo.training.optimisation import Optimisation
from ddspo.training.optimizers import state_bytes
from ddspo.training.policies import Policies
from ddspo.training.steps import preference_step

D = TypeVar("D", bound="Device")


@dataclass(frozen=True)
class Device:
    """Accelerator memory while training, for each process"""

    frozen_bytes: Annotated[int, Doc("frozen weights of the denoiser: base or reference, winner, loser")]
    others_bytes: Annotated[int, Doc("text encoders, with train.encode=during")]
    trained_bytes: Annotated[int, Doc("trained weights, in single precision")]
    gradients_bytes: Annotated[int, Doc("their gradients")]
    optimizer_bytes: Annotated[int, Doc("what the optimizer keeps of each: AdamW two moments")]
    average_bytes: Annotated[int, Doc("the moving average of the trained weights, if one is kept")]
    activations_bytes: Annotated[
        int, Doc("what comes on top at the most, of train.device_batch pairs: activations, and casts of weights")
    ]
    total_bytes: Annotated[int, Doc("sum; an allocator's gaps and a kernel's scratch space come on top")]

    @property
    def held_bytes(self) -> int:
        """What stays between two steps."""
        return self.total_bytes - self.activations_bytes - self.gradients_bytes


class PretrainingDevice(Device):
    """Accelerator memory while pretraining winner and loser, for each process"""


def in_training(recipe: Recipe, backbone: Backbone) -> Device:
    """Memory of the `train` stage; the outline is changed as training changes a backbone."""
    condition = once(backbone, "condition", lambda: condition_shapes(backbone))
    base, others = network_size(backbone.denoiser), others_bytes(backbone)
    saved = _saved(backbone, recipe.model)
    with torch.device("meta"):
        frozen = bool(recipe.asked.frozen)
        policies = Policies.of(backbone, recipe.adaptation, seed=0, reference=recipe.reference, frozen=frozen)
    held, beside = [policies.trained, *policies.behaviours.values()], 0
    if recipe.pretrains:
        whole = recipe.pretrain.adaptation.saves_pipeline
        beside = BRANCHES * base if whole else in_pretraining(recipe).trained_bytes
        policies.behaviours |= dict.fromkeys(("winner", "loser"), policies.behaviours["reference"])
    step = partial(_preference, policies, recipe, condition)
    trained = [parameter for group in policies.groups().values() for parameter in group]
    return _device(Device, recipe, recipe.train, Held(backbone, held, trained, step, beside - saved, texts_of(others)))


def in_pretraining(recipe: Recipe) -> PretrainingDevice:
    """Memory of the `pretrain` stage."""
    backbone, given = model_outline(recipe.model), recipe.pretrain
    condition = once(backbone, "condition", lambda: condition_shapes(backbone))
    others, saved = others_bytes(backbone), _saved(backbone, recipe.model)
    with torch.device("meta"):
        imitators = Imitators.of(backbone, given.adaptation, Pair(0, 0))
    step = partial(_imitation, imitators, given.train, condition)
    trained = [parameter for group in imitators.groups().values() for parameter in group]
    held = Held(backbone, imitators.trained, trained, step, -saved, texts_of(others))
    return _device(PretrainingDevice, recipe, given.train, held)


def others_bytes(backbone: Backbone) -> dict[str, int]:
    """Bytes of text encoders and autoencoder, by their names."""
    return {name: network_size(part) for name, part in other_parts(backbone).items()}


def texts_of(others: dict[str, int]) -> int:
    """Bytes of the text encoders among them."""
    return sum(bytes_ for name, bytes_ in others.items() if name.startswith(TEXTS))


def _saved(backbone: Backbone, model: Model) -> int:
    """Bytes that the accelerator need not hold of a base that is quantised, or waits in main memory."""
    base = base_of(backbone.denoiser, model)
    return network_size(backbone.denoiser) - base.stays - base.passes


def _step_of(recipe: Recipe) -> tuple[Any, ...]:
    """All of a recipe that a step of it depends on, but for its optimisation."""
    imitators = recipe.pretrain.adaptation if recipe.pretrains else None
    return recipe.adaptation, imitators, recipe.reference, recipe.policy_pair, recipe.objective, recipe.draw


def _preference(policies: Policies, recipe: Recipe, condition: Condition) -> Loss:
    view = view_of(policies.backbone, recipe.draw, condition, recipe.train.device_batch)
    return preference_step(policies, recipe.policy_pair, recipe.objective, view, recipe.draw)


def _imitation(imitators: Imitators, how: Optimisation, condition: Condition) -> Loss:
    return imitation_step(imitators, view_of(imitators.backbone, Drawing(), condition, how.device_batch))


@dataclass(frozen=True)
class Held:
    """What a stage holds and does: behaviours, their trained weights, a step, further frozen bytes, text encoders."""

    backbone: Backbone
    behaviours: Iterable[Behaviour]
    trained: list[nn.Parameter]
    step: Callable[[], Loss]
    beside: int
    texts: int

    @property
    def networks(self) -> list[nn.Module]:
        """Each network that some behaviour uses, once."""
        return list({id(each.network): each.network for each in self.behaviours}.values())


def _device(kind: type[D], recipe: Recipe, how: Optimisation, held: Held) -> D:
    """Bytes of all networks and of what training adds to them; at the peak, of a step or of the update after it.

    An update takes one more copy of the trained weights: AdamW's square roots of all second moments.
    """
    trained = size(held.trained)
    average, moments = trained if how.average else 0, state_bytes(how.optimizer, held.trained)
    frozen = sum(map(network_size, held.networks)) - trained + held.beside
    others = held.texts if how.encode == "during" else 0
    stays = frozen + others + trained + moments + average
    key = (kind.__name__, *map(repr, (recipe.model, *_step_of(recipe), how.device_batch, how.gradient_checkpointing)))
    accumulates = how.batch > how.device_batch
    step = once(
        held.backbone,
        (*key, accumulates),
        lambda: of_step(held.step, held.networks, held.trained, how, recipe.model),
    )
    reads = of_texts(held.backbone, BRANCHES * how.device_batch) if others else 0
    before = trained if accumulates else 0  # gradients of the micro-batch before
    total = stays + max(before + max(step, reads), trained + trained)
    return kind(
        frozen_bytes=frozen,
        others_bytes=others,
        trained_bytes=trained,
        gradients_bytes=trained,
        optimizer_bytes=moments,
        average_bytes=average,
        activations_bytes=total - stays - trained,
        total_bytes=total,
    )
