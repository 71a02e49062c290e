"""pairs/ -> checkpoints/, log.jsonl, aligned/: the policy, by the one training loop."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TypeVar

from accelerate import Accelerator
from torch import Tensor

from ddspo import randomness
from ddspo.adaptations.base import Adaptation
from ddspo.agreement import agree, alone
from ddspo.backbones._residence import rest
from ddspo.backbones.base import Backbone
from ddspo.errors import InputError
from ddspo.files import replace_atomically
from ddspo.objectives.base import Needs, Objective
from ddspo.pairs.data import Holding, Pairs
from ddspo.pairs.view import View
from ddspo.policy_pairs.base import Asked, PolicyPair
from ddspo.progress import Progress
from ddspo.reference_policies.base import Reference
from ddspo.reference_policies.frozen import FrozenReference
from ddspo.run_folder import RunFolder
from ddspo.training.average import Average
from ddspo.training.batches import Batches
from ddspo.training.checkpoints import Checkpoints
from ddspo.training.drawing import PLAIN, Drawing, check_drawing
from ddspo.training.fit import Fit
from ddspo.training.on_policy import Remaking
from ddspo.training.optimisation import Optimisation
from ddspo.training.policies import Policies, Pretrained
from ddspo.training.sharding import gathered
from ddspo.training.steps import asked_of, needs_of, preference_step, sides_read, survey
from ddspo.training.texts import conditions_of
from ddspo.training.validation import Validator

T = TypeVar("T")


@dataclass(frozen=True)
class Method:
    """What is trained, towards what, by which loss, and on which draws.

    `pretrained` says how winner and loser were trained, for a policy pair that asks for them; `validator` makes who
    looks at the policy on the way, from the base; `remaking` makes pairs anew on the way; with `force` an objective is
    used also with a policy pair that it refuses.
    """

    policy_pair: PolicyPair
    objective: Objective
    adaptation: Adaptation
    reference: Reference = field(default_factory=FrozenReference)
    pretrained: Adaptation | None = None
    drawing: Drawing = PLAIN
    validator: Callable[[Backbone], Validator] | None = None
    remaking: Remaking | None = None
    force: bool = False

    @property
    def needs(self) -> Needs:
        """What a step reads."""
        return needs_of(self.objective, self.drawing)

    @property
    def asked(self) -> Asked:
        """The predictions that a step takes."""
        return asked_of(self.policy_pair, self.objective, self.drawing)

    def policies(self, backbone: Backbone, seed: int, pretrained: Pretrained | None = None) -> Policies:
        """The policy, on the backbone's own device, and those frozen ones that a step asks for."""
        frozen = bool(self.asked.frozen)
        return Policies.of(backbone, self.adaptation, seed, pretrained, self.reference, frozen=frozen)

    def teaching(self, step: Callable[..., T], policies: Policies) -> Callable[[View], T]:
        """A kind of step, of this policy pair, objective and drawing."""
        return partial(step, policies, self.policy_pair, self.objective, drawing=self.drawing)

    def check(self, settings: Optimisation, pairs: Holding) -> None:
        """Refuse what cannot work together.

        Args:
            settings: How it is trained.
            pairs: What it learns from, or will.

        Raises:
            InputError: The objective refuses the policy pair or the kind of pairs, a step reads degraded prompts,
                scores, seeds or visited states and there are none, latents are that were not sampled, the reference
                would never move, or be read, or no pairs be made anew.
        """
        self._check_objective(pairs)
        self._check_drawn(pairs)
        if self.asked.degraded and not pairs.has_degraded:
            raise InputError(
                f"policy_pair: {type(self.policy_pair).__name__} reads degraded prompts, and labelled and most "
                "imported pairs have none: use data_driven or forward_noise, or leave sample.labels or dataset out"
            )
        fault = self.reference.check(settings.steps)
        if fault:
            raise InputError(f"reference: {fault}")
        if self.remaking:
            self.remaking.when.check(settings.steps)

    def check_prompts(self, prompts: Iterable[str] | None, *, labels: bool) -> None:
        """Refuse what the drawing of pairs cannot do with these prompts, or with any (None).

        Raises:
            InputError: There is something.
        """
        contrasts = self.needs.lose and not labels
        check_drawing(self.drawing, self.policy_pair, prompts, contrasts=contrasts)

    def _check_objective(self, pairs: Holding) -> None:
        names = [type(each).__module__.rpartition(".")[2] for each in (self.objective, self.policy_pair)]
        fault = self.objective.refuses(self.policy_pair)
        if fault and not self.force:
            raise InputError(f"objective: {names[0]} with policy_pair {names[1]}: {fault}, or set force=true")
        if self.reference.moves and all(ask.who != "reference" for ask in self.asked.frozen):
            raise InputError(f"reference: {names[0]} with policy_pair {names[1]} reads none: leave it out")
        if pairs.has_labels and not self.needs.label:
            raise InputError(
                f"objective: {names[0]} compares two images of a prompt, and the dataset has single labelled ones: "
                "use kto"
            )
        if self.needs.gap and not pairs.has_scores:
            raise InputError(
                f"objective: {names[0]} weighs pairs by the gap of their scores, and these have none: let a judge "
                "score them (sample.labels), or import them with scores"
            )

    def _check_drawn(self, pairs: Holding) -> None:
        if self.drawing.states == "visited" and not pairs.has_states:
            raise InputError(
                "draw.states: visited: no states are kept of the pairs: set sample.states to how many are to be, or "
                "use renoised, as with any imported dataset"
            )
        read = sides_read(self.objective, self.drawing)
        missing = ["winners" if side == "win" else "losers" for side in read if side not in pairs.sides]
        if missing:
            raise InputError(
                f"draw.latents: {self.drawing.latents}: the pairs hold no {' and no '.join(missing)}: make them anew "
                "(`ddspo sample --fresh`), or leave it at what they were made for"
            )
        if self.drawing.noise == "generating" and not pairs.has_seeds:
            raise InputError(
                "draw.noise: generating: of imported pairs nobody knows the noise that they were sampled from: leave "
                "it out"
            )


def train(
    run: RunFolder,
    backbone: Backbone,
    data: Pairs,
    method: Method,
    settings: Optimisation,
    seed: int,
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    """Train and write `aligned/`; a run that was interrupted goes on from its newest checkpoint."""
    method.check(settings, data)
    method.check_prompts(data.each_prompt(), labels=data.has_labels)
    agree(lambda: data.verify(backbone.latent_shape, accelerator.process_index, accelerator.num_processes))
    backbone.to(accelerator.device)
    remaking, degraded = method.remaking, method.asked.degraded
    later = remaking.texts(backbone, settings.steps, degraded=degraded) if remaking else ()
    texts = chain(data.texts(degraded=degraded), later)
    with conditions_of(backbone, texts, settings.encode, run.conditions) as conditions:
        rest(backbone, texts=settings.encode == "during", denoiser=settings.parallel == "fsdp")
        batches = Batches(data, conditions, settings.batch, seed, backbone.path, method.drawing, degraded)
        pretrained = Pretrained(method.pretrained, run.policies) if method.pretrained else None
        validator = method.validator(backbone) if method.validator else None
        policies = method.policies(backbone, randomness.stable_seed(seed, "adapter") % 2**32, pretrained)
        fit = Fit(
            name="train",
            accelerator=accelerator,
            trained=policies,
            step=method.teaching(preference_step, policies),
            batches=remaking.rounds(backbone, batches, run, settings.window, progress) if remaking else batches,
            settings=settings,
            folder=run,
            validator=validator,
            survey=method.teaching(survey, policies) if method.needs.mean else None,
            steady=method.objective.steady,
        )
        fit.run(progress)
    if validator and validator.settings.save == "best":
        row = fit.return_to_best()
        progress.say(f"train: update {row['step']} is saved, of validation score {row['score']:.3f}")
    with fit.averaged():
        weights = gathered(policies.adaptation.weights(policies.trained)) if fit.shares else None
        alone(partial(_save, run, policies, weights))


def take(run: RunFolder, backbone: Backbone, method: Method, settings: Optimisation, step: int) -> None:
    """Write `aligned/` from the checkpoint of an update: its weights, or their average where one is kept."""
    policies = method.policies(backbone, 0)
    checkpoints = Checkpoints(run.checkpoints, settings.keep)
    policies.restore(checkpoints.read(step, "weights"))
    with ExitStack() as stack:
        if settings.average:
            parameters = [parameter for group in policies.groups().values() for parameter in group]
            average = Average(parameters, settings.average)
            average.restore(checkpoints.read(step, "average"), step)
            stack.enter_context(average.applied())
        _save(run, policies)


def _save(run: RunFolder, policies: Policies, weights: dict[str, Tensor] | None = None) -> None:
    replace_atomically(run.aligned, partial(policies.adaptation.save, policies.backbone, weights=weights))
