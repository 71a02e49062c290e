"""What each stage is given: a checked recipe becomes backbones, pairs, methods and judges, and the stage is called."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from accelerate import Accelerator

from ddspo import components
from ddspo.agreement import agree, alone
from ddspo.backbones._outline import outline
from ddspo.backbones._readers import Reader
from ddspo.backbones.base import Backbone, Model
from ddspo.checks import LOOKED_AT, Checked, read_held_out, reading
from ddspo.contestants import Contestant
from ddspo.errors import quoted
from ddspo.judging.judging import Judging, References
from ddspo.judging.pictures import Picture
from ddspo.manifest import Manifest
from ddspo.pairs.store import PairStore
from ddspo.progress import Progress
from ddspo.prompts.overlaps import contamination
from ddspo.recipe import Recipe
from ddspo.references import read_references
from ddspo.result import Result
from ddspo.rows import Row, each_row, read_rows, some_rows
from ddspo.run_folder import MODELS, RunFolder
from ddspo.sampling.maker import PairMaker
from ddspo.stages.degrade import degrade
from ddspo.stages.final_pictures import FinalPictures
from ddspo.stages.images import Images, Loader
from ddspo.stages.import_pairs import import_pairs
from ddspo.stages.judge import Judge
from ddspo.stages.pretrain import pretrain
from ddspo.stages.report import report
from ddspo.stages.sample import sample
from ddspo.stages.train import Method, take, train
from ddspo.training.guards import best
from ddspo.training.on_policy import Remaking
from ddspo.training.optimisation import Optimisation
from ddspo.training.trackers import tracked
from ddspo.training.validation import Validator


@dataclass(frozen=True)
class Jobs:
    """The stages of one recipe, on one process of however many."""

    found: Checked
    accelerator: Accelerator
    progress: Progress

    @property
    def recipe(self) -> Recipe:
        """What is done."""
        return self.found.recipe

    @property
    def folder(self) -> RunFolder:
        """Where it is done."""
        return RunFolder(self.recipe.folder)

    def run(self, name: str) -> None:
        """Do a stage, or what is left of it; on all processes."""
        steps: dict[str, Callable[[], object]] = {
            "degrade": lambda: alone(self._degrade),
            "sample": self._sample,
            "import": self._import,
            "pretrain": self._pretrain,
            "train": self._train,
            "images": self._images,
            "judge": self._judge,
            "report": lambda: alone(self._report),
        }
        steps[name]()

    def _degrade(self) -> None:
        given, how = self.recipe, self.recipe.degradation_used
        if given.dataset:
            rows, total = given.dataset.captions(), given.dataset.pairs
            degrade(self.folder, rows, how, given.seed, self.progress, total, self._readers)
            return
        prompts = reading(given)
        degrade(self.folder, prompts, how, given.seed, self.progress, prompts.source.limit, self._readers)
        self.progress.say(f"prompts: {prompts}")

    def _sample(self) -> None:
        given, backbone = self.recipe, self._backbone()
        self._say_too_long(backbone, some_rows(self.folder.prompts, LOOKED_AT), "prompts")
        how = (given.sample, given.seed, self.accelerator, self.progress, given.sides)
        sample(self.folder, backbone, given.model, *how)

    def _import(self) -> None:
        given, backbone = self.recipe, self._backbone()
        assert given.dataset is not None  # `_needs` has said so in words
        if given.degradation_used:
            self._say_too_long(backbone, some_rows(self.folder.prompts, LOOKED_AT), "captions")
        import_pairs(self.folder, backbone, given.dataset, given.model, self.accelerator, self.progress)

    def _pretrain(self) -> None:
        given, data = self.recipe, self._pairs(self.recipe.pretrain.train)
        pretrain(self.folder, self._backbone(), data, given.pretrain, given.seed, self.accelerator, self.progress)

    def _pairs(self, settings: Optimisation, *, states: bool = False) -> PairStore:
        return PairStore.open(self.folder.pairs, settings.window, self.recipe.model.path, states=states)

    @property
    def method(self) -> Method:
        """What is trained, and how it is looked at on the way."""
        given = self.recipe
        pretrained = given.pretrain.adaptation if self.recipe.pretrains else None
        validator = self._validator if given.validation.every else None
        remaking = Remaking(given.on_policy, self._maker) if given.on_policy else None
        return Method(
            *(given.policy_pair, given.objective, given.adaptation, given.reference),
            *(pretrained, given.draw, validator, remaking),
            force=given.force,
        )

    def _maker(self, backbone: Backbone) -> PairMaker:
        """Who makes pairs on the way, silently: a line a round is enough."""
        given, silent = self.recipe, Progress(speaks=False)
        return PairMaker(
            *(self.folder.prompts, backbone, given.model, given.sample, given.seed, self.accelerator),
            *(silent, given.sides),
        )

    def _validator(self, base: Backbone) -> Validator:
        given = self.recipe
        return Validator(
            settings=given.validation,
            backbone=base,
            items=self._held_out,
            metric=given.validation_metric,
            seed=given.seed,
            folder=self.folder.validation,
            accelerator=self.accelerator,
        )

    def _train(self) -> None:
        given = self.recipe
        with tracked(self.accelerator, given.name, self.folder.trackers, components.plain(given)):
            self._fit()
        self._look_at_aligned()

    def take(self, step: int) -> None:
        """Make the checkpoint of an update `aligned/`, in place of training; on one process."""
        take(self.folder, self._load(), self.method, self.recipe.train, step)
        self._look_at_aligned()

    def _look_at_aligned(self) -> None:
        """Pictures and the model card of what was trained."""
        given = self.recipe
        if given.validation.final:
            self.accelerator.free_memory()  # of the policy, before the base is loaded
            how = (self._load, partial(given.adaptation.load, folder=self.folder.aligned), self._held_out, given.seed)
            alone(lambda: FinalPictures(self.folder, given.validation, *how).draw(self.progress))
        alone(self._write_card)

    def _fit(self) -> None:
        given, states = self.recipe, self.recipe.draw.states == "visited"
        data, backbone = self._pairs(given.train, states=states), self._backbone()
        train(self.folder, backbone, data, self.method, given.train, given.seed, self.accelerator, self.progress)

    @property
    def _held_out(self) -> list[Row]:
        """Rows whose prompts are in no list of training."""
        return self.found.items.get("validation") or read_held_out(self.recipe)

    def _images(self) -> None:
        given = self.recipe
        assert given.evaluate is not None  # `_needs` has said so in words
        models: dict[str, Loader | Sequence[Picture]] = dict(zip(MODELS, (self._base, self._aligned), strict=True))
        for name, other in self.found.contestants.items():
            models[name] = partial(self._other, other) if other.model else other.pictures
        Images(
            folder=self.folder,
            models=models,
            items=self.found.items,
            settings=given.evaluate,
            choose=given.evaluate.chooser,
            seed=given.seed,
            judging=self._judging,
            accelerator=self.accelerator,
            progress=self.progress,
        ).draw()

    def _judge(self) -> None:
        given = self.recipe.evaluate
        assert given is not None  # `_needs` has said so in words
        place, digest = given.references, self.found.references
        references = References(digest, partial(read_references, place)) if place and digest else None
        Judge(self.folder, given.metrics, references, self._judging, self._contamination).judge()

    @property
    def _judging(self) -> Judging:
        assert self.recipe.evaluate
        return Judging(self.accelerator, self.progress, self.recipe.evaluate.judge_batch)

    def _contamination(self) -> Row:
        """Prompts of the evaluation that were also trained on, where it is known what was."""
        if not self.folder.prompts.is_file():  # the pairs are those of a dataset
            return {}
        asked = [row["prompt"] for row in self.found.items["evaluation"]]
        return {"contamination": contamination((row["prompt"] for row in each_row(self.folder.prompts)), asked)}

    def _other(self, other: Contestant) -> Backbone:
        assert other.model
        backbone = agree(partial(self._load, other.model))
        if other.adapt:
            agree(partial(other.adapt, backbone))
        return backbone

    def _base(self) -> Backbone:
        backbone = self._backbone()
        self._say_too_long(backbone, self.found.items["evaluation"], "evaluate.prompts")
        return backbone

    def _aligned(self) -> Backbone:
        backbone = self._backbone()
        agree(lambda: self.recipe.adaptation.load(backbone, self.folder.aligned))
        return backbone

    def _report(self) -> None:
        report(self.folder, self.recipe.name, evaluated=self.recipe.evaluate is not None, update=self._update)
        self._write_card()

    @property
    def _update(self) -> int | None:
        """The one whose weights are in `aligned/`."""
        given = self.recipe
        saved = best(read_rows(self.folder.log)) if given.validation.save == "best" else given.train.steps
        taken = Manifest(self.folder).entry("train").get("update")
        return taken if taken is not None else saved

    def _write_card(self) -> None:
        Result(self.folder, self.recipe).write_card()

    def _backbone(self) -> Backbone:
        return agree(self._load)

    def _load(self, other: Model | None = None) -> Backbone:
        """The recipe's model, or another."""
        model = other or self.recipe.model
        return components.backbone_of(model).load(model).to(self.accelerator.device)

    @property
    def _readers(self) -> list[Reader]:
        """What reads the model's prompts; no weights are loaded."""
        return outline(components.backbone_of(self.recipe.model), self.recipe.model).readers()

    def _say_too_long(self, backbone: Backbone, rows: list[Row], name: str) -> None:
        cuts = backbone.too_long([row["prompt"] for row in rows])
        for reader in backbone.readers() if cuts else ():
            mine = [cut for cut in cuts if cut.encoder == reader.encoder]
            which = f"{len(mine)} of {len(rows)} lose their end"
            example = f", for example {quoted(mine[0].prompt)} loses {quoted(mine[0].words)}" if mine else ""
            self.progress.say(f"{name}: {reader.encoder} reads {reader.limit} tokens: {which}{example}")
