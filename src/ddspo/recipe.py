"""The recipe: a frozen tree of everything that a run depends on, read from YAML with dotted overrides."""

import dataclasses
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from annotated_types import Ge, Lt
from typing_extensions import Doc

from ddspo import components
from ddspo.adaptations.base import Adaptation
from ddspo.adaptations.lora import LoRA
from ddspo.backbones.base import Model
from ddspo.degradations.base import Degradation
from ddspo.degradations.remove_words import RemoveWords
from ddspo.errors import InputError, quoted, shortened
from ddspo.judging.options import Evaluation
from ddspo.maths.pair import Pair
from ddspo.metrics.base import Metric
from ddspo.objectives.base import Objective
from ddspo.objectives.logistic import Logistic
from ddspo.policy_pairs.base import Asked, PolicyPair
from ddspo.policy_pairs.training_free import TrainingFree
from ddspo.prompts.addresses import address_lists
from ddspo.prompts.source import Source
from ddspo.reference_policies.base import Reference
from ddspo.reference_policies.frozen import FrozenReference
from ddspo.sampling.options import Sampling
from ddspo.stages.import_pairs import Dataset
from ddspo.stages.pretrain import Pretraining
from ddspo.training.drawing import Drawing
from ddspo.training.on_policy import OnPolicy
from ddspo.training.optimisation import Optimisation
from ddspo.training.steps import asked_of, sides_read
from ddspo.training.trackers import Tracker
from ddspo.training.validation import Validation
from ddspo.trees import DEEPEST, MOST, NO_YAML, is_bounded, read_yaml

STAGES = ("degrade", "sample", "import", "pretrain", "train", "images", "judge", "report")
"""All that a recipe may go through, in order."""
VERBS = {"judge": "evaluate"}
"""Commands of stages that are not called like them."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Recipe:
    """One run."""

    name: Annotated[str, Doc("the run's folder inside `out`")]
    model: Annotated[Model, Doc("the pipeline that is aligned, and the frozen reference")]
    prompts: Annotated[
        Source | None, Doc("alignment prompts; a path alone is short for its group; null: a dataset")
    ] = None
    seed: Annotated[int, Ge(0), Lt(2**63), Doc("everything random follows from it")] = 0
    out: Annotated[str, Doc("where run folders are")] = "runs"
    degradation: Annotated[Degradation, Doc("how prompts are made poorer")] = field(default_factory=RemoveWords)
    sample: Annotated[Sampling, Doc("how pairs are generated")] = field(default_factory=Sampling)
    dataset: Annotated[Dataset | None, Doc("where pairs are imported from instead; null: they are generated")] = None
    policy_pair: Annotated[PolicyPair, Doc("who is followed and who is fled")] = field(default_factory=TrainingFree)
    pretrain: Annotated[Pretraining, Doc("how the data-driven pair's winner and loser are made")] = field(
        default_factory=Pretraining
    )
    reference: Annotated[Reference, Doc("what the policy is measured from")] = field(default_factory=FrozenReference)
    objective: Annotated[Objective, Doc("from displacements to a loss")] = field(default_factory=Logistic)
    force: Annotated[bool, Doc("use an objective also with a policy pair that it refuses")] = False
    draw: Annotated[Drawing, Doc("how the pairs of a step are drawn and weighed")] = field(default_factory=Drawing)
    adaptation: Annotated[Adaptation, Doc("which weights are trained")] = field(default_factory=LoRA)
    train: Annotated[Optimisation, Doc("how they are trained")] = field(default_factory=Optimisation)
    on_policy: Annotated[OnPolicy | None, Doc("pairs made anew by the policy on the way; null: not")] = None
    validation: Annotated[Validation, Doc("pictures and a score while it is trained")] = field(
        default_factory=Validation
    )
    trackers: Annotated[tuple[Tracker, ...], Doc("who else gets the log of training; their files go to trackers/")] = (
        "tensorboard",
    )
    evaluate: Annotated[Evaluation | None, Doc("how base and aligned are compared; null: not at all")] = None

    @property
    def folder(self) -> Path:
        """Where the run lives."""
        return Path(self.out).expanduser() / self.name

    @property
    def degradation_used(self) -> Degradation | None:
        """How prompts are made poorer, if they are: not for labelled pairs, nor for those of preferences."""
        given = self.dataset.format.alone if self.dataset else not self.sample.labels
        return self.degradation if given else None

    @property
    def has_degraded(self) -> bool:
        """Whether each pair has a degraded prompt."""
        return self.dataset.has_degraded if self.dataset else self.sample.labels is None

    @property
    def has_scores(self) -> bool:
        """Whether each pair has scores of both sides."""
        return self.dataset.format.has_scores if self.dataset else self.sample.labels is not None

    @property
    def has_labels(self) -> bool:
        """Whether pairs are single samples, each wanted or not."""
        return self.dataset is not None and self.dataset.format.labelled

    @property
    def has_seeds(self) -> bool:
        """Whether the seeds are kept that pairs are sampled from."""
        return self.dataset is None

    @property
    def has_states(self) -> bool:
        """Whether the sampler's states come with each pair."""
        return self.dataset is None and self.sample.states > 0

    @property
    def sides(self) -> tuple[str, ...]:
        """Of `win` and `lose` those that pairs have: what is looked at; a judge and pretraining look at both."""
        if self.dataset:
            return self.dataset.sides
        return Pair._fields if self.sample.labels or self.pretrains else sides_read(self.objective, self.draw)

    @property
    def asked(self) -> Asked:
        """The predictions that a step of training takes."""
        return asked_of(self.policy_pair, self.objective, self.draw)

    @property
    def samples(self) -> int:
        """Latents that are sampled for the pairs before training."""
        labels = self.sample.labels
        return 0 if self.dataset else self.sample.pairs * (labels.candidates if labels else len(self.sides))

    @property
    def pretrains(self) -> bool:
        """Whether winner and loser have to be made first."""
        return "winner" in self.policy_pair.policies

    @property
    def validation_metric(self) -> Metric | None:
        """What scores the policy while it is trained: its own metric, or the one that chooses guidance scales."""
        return self.validation.metric or (self.evaluate.main if self.evaluate else None)

    @property
    def scoring(self) -> Metric | None:
        """The same, where anything is to be scored."""
        return self.validation_metric if self.validation.every and self.validation.scored else None

    @property
    def stages(self) -> tuple[str, ...]:
        """What it goes through: pairs are made or imported, not all are pretrained, not all evaluated."""
        used = {"train", "report", "import" if self.dataset else "sample"}
        used |= {"degrade"} if self.degradation_used or not self.dataset else set()
        used |= {"pretrain"} if self.pretrains else set()
        used |= {"images", "judge"} if self.evaluate else set()
        return tuple(name for name in STAGES if name in used)

    @property
    def rounds(self) -> int:
        """How often the policy makes pairs."""
        return self.on_policy.rounds(self.train.steps) if self.on_policy else 0


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply `key=value` overrides, and build every component.

    Raises:
        InputError: The file is missing or no YAML mapping, or a key or value is wrong; one line that says where.
    """
    return build(read_yaml(path), overrides, str(path))


def build(tree: dict[str, Any], overrides: Sequence[str], where: str) -> Recipe:
    """A recipe of plain data, which becomes that of all overrides.

    Args:
        tree: Mappings, lists and scalars, as YAML gives them.
        overrides: `key=value` each.
        where: Where the data come from, for messages.

    Raises:
        InputError: A key or value is wrong; one line that says where.
    """
    for each in overrides:
        _spell_out(tree)
        override(tree, each)
    _spell_out(tree)
    if not is_bounded(tree):
        raise InputError(
            f"{where}: with all aliases written out it has over {MOST} values, or is nested over {DEEPEST} deep: "
            "write a shorter one"
        )
    try:
        address_lists(tree)
        recipe = components.construct(Recipe, tree, "")
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    assert isinstance(recipe, Recipe)
    fault = _fault(recipe)
    if fault:
        raise InputError(f"{where}: {fault}")
    return recipe


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML, each field's meaning as a comment; `load` reads it back to an equal recipe."""
    return "\n".join(_lines(recipe, 0)) + "\n"


def _fault(recipe: Recipe) -> str | None:
    """What does not go together, before any file is looked at."""
    if not _NAME.fullmatch(recipe.name):
        return f"name {quoted(recipe.name)}: use letters, digits, '_', '-' and '.', not starting with '.'"
    if "://" in recipe.out:
        return f"out {shortened(recipe.out)}: give a folder of this machine, and copy the run from there"
    try:
        assert recipe.folder
    except RuntimeError:
        return f"out {shortened(recipe.out)}: nobody of that name has a home here: give the whole path"
    if recipe.prompts is None and recipe.dataset is None:
        return "prompts: missing: give prompts to make pairs from, or a dataset to import pairs from"
    if recipe.on_policy and recipe.dataset:
        return "on_policy: the pairs are those of a dataset, and nothing is sampled: leave one of the two out"
    return _unpaired(recipe) or (recipe.evaluate.fault() if recipe.evaluate else None)


def _unpaired(recipe: Recipe) -> str | None:
    """What needs two images of a prompt, where there is one."""
    if recipe.dataset is None or recipe.dataset.sides == Pair._fields:
        return None
    if recipe.draw.sides != recipe.dataset.sides:
        one = f"draw.latents {recipe.draw.latents}: the dataset has one image of each"
        if recipe.has_labels:
            return f"{one} row: set draw.latents=winner"
        return f"{one} caption: set draw.latents=winner and draw.noise=independent, a noise of its own for each branch"
    if recipe.has_labels and recipe.draw.noise == "independent":
        return "draw.noise independent: a labelled image is noised once, there is no second branch: leave it out"
    if recipe.pretrains:
        use = "forward_noise" if recipe.has_labels else "training_free"
        return f"policy_pair: its loser learns from losing images, and the dataset has none: use {use}"
    return None


def _spell_out(tree: dict[str, Any]) -> None:
    """`prompts: PATH` is short for `prompts: {path: PATH}`."""
    if isinstance(tree.get("prompts"), str):
        tree["prompts"] = {"path": tree["prompts"]}


def override(tree: dict[str, Any], text: str) -> None:
    """Set one dotted key; a component given by name alone opens up, one of another name is replaced."""
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"{quoted(text)} is no override: write key=value, for example train.lr=1e-4")
    *parents, last = key.split(".")
    for name in parents:
        below = tree.get(name)
        if not isinstance(below, dict):
            below = {} if below is None else {below: {}} if isinstance(below, str) else None
        if below is None:
            raise InputError(f"{quoted(text)}: {shortened(str(name))} holds no further keys")
        tree[name] = below
        tree = below
    try:
        tree[last] = yaml.safe_load(value)
    except NO_YAML:
        raise InputError(f"{quoted(text)}: the value is no YAML: quote it") from None


def _lines(value: Any, depth: int) -> list[str]:
    lines = []
    docs = components.docs(type(value))
    for each in dataclasses.fields(value):
        child = getattr(value, each.name)
        comment = f"  # {docs[each.name]}" if docs[each.name] else ""
        lines.append(f"{'  ' * depth}{each.name}:{_scalar(child)}{comment}")
        if dataclasses.is_dataclass(child):
            lines += _below(child, depth + 1)
    return lines


def _below(child: Any, depth: int) -> list[str]:
    """A component's name and options, or a group's fields."""
    if isinstance(child, tuple(components.KINDS)):
        options = _lines(child, depth + 1)
        return [f"{'  ' * depth}{components.name_of(child)}:{'' if options else ' {}'}", *options]
    return _lines(child, depth)


def _scalar(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return ""
    plain = typing.cast(Any, components.plain(value))
    return " " + yaml.safe_dump(plain, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
