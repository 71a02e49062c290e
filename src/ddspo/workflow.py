"""Carries a recipe through the stages: checks everything first, skips what is finished, continues what is not."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from accelerate import Accelerator

from ddspo import components, recipe
from ddspo.agreement import agree, alone
from ddspo.backbones.base import Backbone
from ddspo.checks import LOOKED_AT, check, reading
from ddspo.errors import InputError
from ddspo.files import write_json, write_text
from ddspo.pairs.store import PairStore
from ddspo.progress import Progress
from ddspo.recipe import STAGES, Recipe
from ddspo.result import Result
from ddspo.rows import Row, some_rows
from ddspo.run_folder import MODELS, RunFolder
from ddspo.sampling.maker import PairMaker
from ddspo.settings import settings_of
from ddspo.stages.degrade import degrade
from ddspo.stages.evaluate import Evaluate
from ddspo.stages.import_pairs import import_pairs
from ddspo.stages.pretrain import pretrain
from ddspo.stages.report import report
from ddspo.stages.sample import sample
from ddspo.stages.train import Method, train
from ddspo.training import processes
from ddspo.training.fit import Optimisation
from ddspo.training.on_policy import Remaking
from ddspo.training.trackers import tracked
from ddspo.training.validation import Validator

MENDING = ("sample", "import")
"""Stages that look for damage where they are finished, if they are asked for by name."""


@dataclass
class Workflow:
    """One recipe on its way through the stages."""

    recipe: Recipe
    accelerator: Accelerator
    progress: Progress
    prompts: Row = field(default_factory=dict)
    items: dict[str, list[Row]] = field(default_factory=dict)

    @classmethod
    def start(cls, given: Recipe, *, fresh_from: str | None = None, first: str | None = None) -> "Workflow":
        """Check all inputs, then make the run folder, or throw away what a stage and later ones left there.

        Args:
            given: The recipe.
            fresh_from: The stage from which on everything is thrown away.
            first: The stage that is to run first, if not the recipe's first.

        Raises:
            InputError: Anything in the recipe cannot work, or nothing is there for that stage.
        """
        folder = RunFolder(Path(given.out) / given.name)
        accelerator = processes.accelerator(given.train, given.model.dtype, given.trackers, folder.trackers)
        flow = cls(given, accelerator, Progress(speaks=accelerator.is_main_process))
        cleared = STAGES[STAGES.index(fresh_from) :] if fresh_from else ()
        degraded = folder.prompts if flow._has_finished("degrade") and "degrade" not in cleared else None
        found = agree(lambda: check(given, flow._method, accelerator.num_processes, degraded))
        flow = replace(flow, recipe=found.recipe, prompts=found.prompts, items=found.items)
        if first:
            flow._needs(first)
        for name in set(STAGES) - set(cleared):
            flow.folder.check(name, flow._settings(name))
        accelerator.wait_for_everyone()
        alone(lambda: flow._begin(cleared))
        return flow

    @property
    def folder(self) -> RunFolder:
        """Where the run lives."""
        return RunFolder(Path(self.recipe.out) / self.recipe.name)

    def run(self, stages: tuple[str, ...] = ()) -> None:
        """Go through some stages in order, or all of the recipe's; each is skipped where it is finished."""
        for name in stages or self.recipe.stages:
            self._needs(name)
            writes = self.accelerator.is_main_process
            with self.folder.stage(name, self._settings(name), writes=writes) as left:
                if left or (name in MENDING and name in stages):
                    self._run_stage(name)
            self.accelerator.wait_for_everyone()
            if writes:
                seconds, where = self.folder.stages()[name]["seconds"], self.folder.result(name)
                self.progress.say(f"{name:<9} {'done' if left else 'kept'} in {seconds:.0f} s -> {where}")

    def result(self) -> Row:
        """The report of a finished run."""
        return json.loads(self.folder.report_json.read_text())

    def _run_stage(self, name: str) -> None:
        steps: dict[str, Callable[[], object]] = {
            "degrade": lambda: alone(self._degrade),
            "sample": self._sample,
            "import": self._import,
            "pretrain": self._pretrain,
            "train": self._train,
            "evaluate": self._evaluate,
            "report": lambda: alone(self._report),
        }
        steps[name]()

    def _degrade(self) -> None:
        given, prompts = self.recipe, reading(self.recipe)
        how, limit = given.degradation_used, prompts.source.limit
        degrade(self.folder, prompts, how, given.seed, self.progress, limit)
        self.progress.say(f"prompts: {prompts}")

    def _sample(self) -> None:
        given, backbone = self.recipe, self._backbone()
        self._say_too_long(backbone, some_rows(self.folder.prompts, LOOKED_AT), "prompts")
        sample(self.folder, backbone, given.model, given.sample, given.seed, self.accelerator, self.progress)

    def _import(self) -> None:
        given = self.recipe
        assert given.dataset is not None  # `_needs` has said so in words
        import_pairs(self.folder, self._backbone(), given.dataset, given.model, self.accelerator, self.progress)

    def _pretrain(self) -> None:
        given, data = self.recipe, self._pairs(self.recipe.pretrain.train)
        pretrain(self.folder, self._backbone(), data, given.pretrain, given.seed, self.accelerator, self.progress)

    def _pairs(self, settings: Optimisation, *, states: bool = False) -> PairStore:
        return PairStore.open(self.folder.pairs, settings.window, self.recipe.model.path, states=states)

    @property
    def _method(self) -> Method:
        given = self.recipe
        pretrained = given.pretrain.adaptation if self.recipe.pretrains else None
        validator = self._validator if given.validation.every else None
        remaking = Remaking(given.on_policy, self._maker) if given.on_policy else None
        return Method(
            *(given.policy_pair, given.objective, given.adaptation, given.reference),
            *(pretrained, given.draw, validator, remaking),
        )

    def _maker(self, backbone: Backbone) -> PairMaker:
        """Who makes pairs on the way, silently: a line a round is enough."""
        given, silent = self.recipe, Progress(speaks=False)
        return PairMaker(
            self.folder.prompts, backbone, given.model, given.sample, given.seed, self.accelerator, silent
        )

    def _validator(self, base: Backbone) -> Validator:
        given = self.recipe
        return Validator(
            settings=given.validation,
            backbone=base,
            items=self.items["validation"] if given.evaluate else some_rows(self.folder.prompts, LOOKED_AT),
            metric=given.evaluate.metric if given.evaluate else None,
            seed=given.seed,
            folder=self.folder.validation,
            accelerator=self.accelerator,
        )

    def _train(self) -> None:
        given, states = self.recipe, self.recipe.draw.states == "visited"
        data, backbone = self._pairs(given.train, states=states), self._backbone()
        with tracked(self.accelerator, given.name, self.folder.trackers, components.plain(given)):
            train(self.folder, backbone, data, self._method, given.train, given.seed, self.accelerator, self.progress)
        alone(self._write_card)

    def _evaluate(self) -> None:
        given = self.recipe
        assert given.evaluate is not None  # `_needs` has said so in words
        backbones = {name: self._backbone() for name in MODELS}
        given.adaptation.load(backbones["aligned"], self.folder.aligned)
        self._say_too_long(backbones["base"], self.items["evaluation"], "evaluate.prompts")
        Evaluate(
            folder=self.folder,
            backbones=backbones,
            items=self.items,
            settings=given.evaluate,
            metric_name=components.name_of(given.evaluate.metric),
            seed=given.seed,
            accelerator=self.accelerator,
            progress=self.progress,
        ).run()

    def _report(self) -> None:
        report(self.folder, self.recipe.name, evaluated=self.recipe.evaluate is not None)
        self._write_card()

    def _write_card(self) -> None:
        Result(self.folder, self.recipe).write_card()

    def _backbone(self) -> Backbone:
        model = self.recipe.model
        return agree(lambda: components.backbone_of(model).load(model).to(self.accelerator.device))

    def _say_too_long(self, backbone: Backbone, rows: list[Row], name: str) -> None:
        cuts = backbone.too_long([row["prompt"] for row in rows])
        for reader in backbone.readers() if cuts else ():
            mine = [cut for cut in cuts if cut.encoder == reader.encoder]
            which = f"{len(mine)} of {len(rows)} lose their end"
            example = f", for example {mine[0].prompt!r} loses {mine[0].words!r}" if mine else ""
            self.progress.say(f"{name}: {reader.encoder} reads {reader.limit} tokens: {which}{example}")

    def _settings(self, name: str) -> Row:
        return settings_of(name, self.recipe, self.prompts, self.items)

    def _needs(self, name: str) -> None:
        """Earlier stages must be finished; a stage that was not begun here is not run behind the user's back."""
        if name == "pretrain" and not self.recipe.pretrains:
            raise InputError(
                f"pretrain: policy_pair {components.name_of(self.recipe.policy_pair)} needs no winner and loser: "
                "go on with `ddspo train`"
            )
        if name not in self.recipe.stages:
            raise InputError(f"{name}: the recipe has no such group: `ddspo show` prints what it may hold")
        for earlier in self.recipe.stages[: self.recipe.stages.index(name)]:
            if not self._has_finished(earlier):
                raise InputError(
                    f"{self.folder.path}: {earlier} is not finished: run `ddspo {earlier}` or `ddspo run`"
                )

    def _has_finished(self, name: str) -> bool:
        return bool(self.folder.stages().get(name, {}).get("finished"))

    def _begin(self, cleared: Sequence[str]) -> None:
        """Throw away what some stages left, and write down what runs, and on what."""
        self.folder.clear(cleared)
        write_text(self.folder.recipe, recipe.dump(self.recipe))
        write_json(self.folder.environment, processes.environment(self.accelerator))
