"""Carries a recipe through the stages: checks everything first, skips what is finished, continues what is not."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from accelerate import Accelerator

from ddspo import components, recipe
from ddspo.agreement import agree, alone
from ddspo.backbones.base import Backbone
from ddspo.checks import LOOKED_AT, Checked, check, check_place, reading
from ddspo.errors import InputError, quoted
from ddspo.files import tidy, write_json, write_text
from ddspo.lock import locked
from ddspo.manifest import Manifest
from ddspo.pairs.store import PairStore
from ddspo.progress import Progress
from ddspo.prompts.reading import read_prompts
from ddspo.recipe import STAGES, Recipe
from ddspo.result import Result
from ddspo.rows import Row, read_json, some_rows
from ddspo.run_folder import MODELS, RunFolder
from ddspo.sampling.maker import PairMaker
from ddspo.stages.degrade import degrade
from ddspo.stages.evaluate import Evaluate
from ddspo.stages.final_pictures import FinalPictures
from ddspo.stages.import_pairs import import_pairs
from ddspo.stages.pretrain import pretrain
from ddspo.stages.report import report
from ddspo.stages.sample import sample
from ddspo.stages.train import Method, train
from ddspo.standing import Standing
from ddspo.training import processes
from ddspo.training.on_policy import Remaking
from ddspo.training.optimisation import Optimisation
from ddspo.training.trackers import tracked
from ddspo.training.validation import Validator

MENDING = ("sample", "import")
"""Stages that look for damage where they are finished, if they are asked for by name."""
LONG = 120
"""Seconds of work that are not thrown away without a word."""


def willing(question: str) -> bool:
    """Whoever asks to start anew means it."""
    return True


@dataclass
class Workflow:
    """One recipe on its way through the stages."""

    found: Checked
    accelerator: Accelerator
    progress: Progress

    @classmethod
    def start(
        cls, given: Recipe, *, fresh: bool = False, first: str | None = None, sure: Callable[[str], bool] = willing
    ) -> "Workflow":
        """Check all inputs, then make the run folder, or throw away what a changed stage and later ones left there.

        Args:
            given: The recipe.
            fresh: Start anew at the stage that is to run first, or else at the first one that a change reaches.
            first: The stage that is to run first, if not the recipe's first.
            sure: Asked before the work of more than minutes is thrown away.

        Raises:
            InputError: Anything in the recipe cannot work, nothing is there for that stage, or it was begun with
                other settings, or another command is at work on the run.
        """
        folder = RunFolder(given.folder)
        check_place(folder.path)
        accelerator = processes.accelerator(given.train, given.model.dtype, given.trackers, folder.trackers)
        flow = cls(Checked(given, {}, {}), accelerator, Progress(speaks=accelerator.is_main_process))
        has_prompts = flow.standing.manifest.is_whole("degrade") and not (fresh and first == "degrade")
        degraded = folder.prompts if has_prompts else None
        flow.found = agree(lambda: check(given, flow._method, accelerator.num_processes, degraded))
        for remark in flow.found.remarks:
            flow.progress.say(remark)
        begin = (first or flow.standing.first_changed()) if fresh else None
        cleared = STAGES[STAGES.index(begin) :] if begin else ()
        if first:
            flow.standing.needs(first)
        flow.standing.check(set(STAGES) - set(cleared))
        if fresh and not begin:
            flow.progress.say("--fresh: nothing has changed: `ddspo STAGE --fresh` starts anew at a stage")
        alone(lambda: flow._prepare(cleared, sure))
        return flow

    @property
    def recipe(self) -> Recipe:
        """What it carries."""
        return self.found.recipe

    @property
    def folder(self) -> RunFolder:
        """Where the run lives."""
        return RunFolder(self.recipe.folder)

    @property
    def standing(self) -> Standing:
        """How the recipe stands to what is there."""
        versions = processes.environment(self.accelerator)["versions"]
        return Standing(self.found, Manifest(self.folder, self.accelerator.is_main_process, versions))

    def run(self, stages: tuple[str, ...] = ()) -> None:
        """Go through some stages in order, or all of the recipe's; each is skipped where it is finished and whole.

        Raises:
            InputError: Another command is at work on the run, or was since this one started.
        """
        with ExitStack() as stack:
            alone(lambda: stack.enter_context(locked(self.folder.path)))
            standing = self.standing
            standing.check(STAGES)
            for name in stages or self.recipe.stages:
                standing.needs(name)
                alone(partial(self._mend, name))
                with standing.enter(name) as left:
                    if left or (name in MENDING and name in stages):
                        self._run_stage(name)
                        self.accelerator.free_memory()  # a stage gives back what it held
                self.accelerator.wait_for_everyone()
                seconds, where = standing.manifest.entry(name).get("seconds", 0), self.folder.result(name)
                self.progress.say(f"{name:<9} {'done' if left else 'kept'} in {seconds:.0f} s -> {where}")

    def _mend(self, name: str) -> None:
        for line in self.standing.mend(name):
            self.progress.say(f"{name}: {line}")

    def result(self) -> Row:
        """The report of a finished run."""
        return read_json(self.folder.report_json, "run `ddspo report`")

    def _prepare(self, cleared: tuple[str, ...], sure: Callable[[str], bool]) -> None:
        """Make the run folder, or what is to begin anew of it."""
        with locked(self.folder.path):
            self.standing.check(set(STAGES) - set(cleared))
            tidy(self.folder.path)
            for line in self.standing.manifest.restore():
                self.progress.say(line)
            begun = {name: self.standing.manifest.entry(name).get("seconds", 0.0) for name in cleared}
            long = [f"{name} ({seconds / 60:.0f} min)" for name, seconds in begun.items() if seconds > LONG]
            if long:
                question = f"--fresh: throws away what was made in {self.folder.path} by {', '.join(long)}"
                self.progress.say(question)
                if not sure(question):
                    raise InputError("--fresh: nothing was thrown away: run without it, or choose another name=...")
            for line in self.standing.manifest.forget(cleared) if cleared else ():
                self.progress.say(line)
            self._describe()

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
            items=self._held_out,
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
        if given.validation.final:
            self.accelerator.free_memory()
            how = (self._load, partial(given.adaptation.load, folder=self.folder.aligned), self._held_out, given.seed)
            alone(lambda: FinalPictures(self.folder, given.validation, *how).draw(self.progress))
        alone(self._write_card)

    @property
    def _held_out(self) -> list[Row]:
        """Rows whose prompts are in no list of training."""
        return self.found.items.get("validation") or read_prompts(self.recipe.validation.prompts, "validation.prompts")

    def _evaluate(self) -> None:
        given = self.recipe
        assert given.evaluate is not None  # `_needs` has said so in words
        Evaluate(
            folder=self.folder,
            models=dict(zip(MODELS, (self._base, self._aligned), strict=True)),
            items=self.found.items,
            settings=given.evaluate,
            metric_name=components.name_of(given.evaluate.metric),
            seed=given.seed,
            accelerator=self.accelerator,
            progress=self.progress,
        ).run()

    def _base(self) -> Backbone:
        backbone = self._backbone()
        self._say_too_long(backbone, self.found.items["evaluation"], "evaluate.prompts")
        return backbone

    def _aligned(self) -> Backbone:
        backbone = self._backbone()
        agree(lambda: self.recipe.adaptation.load(backbone, self.folder.aligned))
        return backbone

    def _report(self) -> None:
        report(self.folder, self.recipe.name, evaluated=self.recipe.evaluate is not None)
        self._write_card()

    def _write_card(self) -> None:
        Result(self.folder, self.recipe).write_card()

    def _backbone(self) -> Backbone:
        return agree(self._load)

    def _load(self) -> Backbone:
        model = self.recipe.model
        return components.backbone_of(model).load(model).to(self.accelerator.device)

    def _say_too_long(self, backbone: Backbone, rows: list[Row], name: str) -> None:
        cuts = backbone.too_long([row["prompt"] for row in rows])
        for reader in backbone.readers() if cuts else ():
            mine = [cut for cut in cuts if cut.encoder == reader.encoder]
            which = f"{len(mine)} of {len(rows)} lose their end"
            example = f", for example {quoted(mine[0].prompt)} loses {quoted(mine[0].words)}" if mine else ""
            self.progress.say(f"{name}: {reader.encoder} reads {reader.limit} tokens: {which}{example}")

    def _describe(self) -> None:
        """Write down what runs, and on what."""
        write_text(self.folder.recipe, recipe.dump(self.recipe))
        write_json(self.folder.environment, processes.environment(self.accelerator))
