"""The folder of a run: where everything is, and what each stage leaves."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ddspo.files import remove

MODELS = ("base", "aligned")
"""What a run starts from and what it makes; an evaluation may have more, after these."""
PAIRS = "pairs"
"""Of images/: pictures of pairs, and no model's."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. Stages talk through these files and never import one another."""

    path: Path

    @property
    def prompts(self) -> Path:
        """Rows {id, prompt, degraded: [{text, kind}], seed}."""
        return self.path / "prompts.jsonl"

    @property
    def undegraded(self) -> Path:
        """The rows whose prompt cannot be degraded."""
        return self.path / "undegraded.jsonl"

    @property
    def degradations(self) -> Path:
        """Folder of report.json and gap.png: what was done to the prompts, by kind, and whether the model can tell."""
        return self.path / "degradations"

    @property
    def pairs(self) -> Path:
        """Folder of parquet shards {id, prompt, how it was made, ..., win, lose} and their index."""
        return self.path / "pairs"

    @property
    def left_out(self) -> Path:
        """Rows {place, reason, detail}: what of a preference dataset gave no pair."""
        return self.path / "left_out.jsonl"

    @property
    def importing(self) -> Path:
        """The same while it is imported, one file a part."""
        return self.path / "importing"

    @property
    def pretraining(self) -> "RunFolder":
        """Log and checkpoints of winner and loser, laid out as those of a run."""
        return RunFolder(self.path / "pretrain")

    @property
    def policies(self) -> Path:
        """Folder of winner/ and loser/ of a data-driven pair, each an ordinary diffusers LoRA or pipeline folder."""
        return self.path / "policies"

    @property
    def checkpoints(self) -> Path:
        """Folder of resumable training states, one folder a step."""
        return self.path / "checkpoints"

    @property
    def conditions(self) -> Path:
        """Folder of encoded texts, there only while a stage trains."""
        return self.path / "conditions"

    @property
    def rounds(self) -> Path:
        """Folder of pairs that the policy made while it was trained, one folder a round."""
        return self.path / "rounds"

    def round(self, number: int) -> Path:
        """Shards of one round, counted from 1."""
        return self.rounds / f"{number:04d}"

    @property
    def log(self) -> Path:
        """One row of health metrics an update."""
        return self.path / "log.jsonl"

    @property
    def validation(self) -> Path:
        """Folder of grids, one an update: base above, policy below."""
        return self.path / "validation"

    @property
    def samples(self) -> Path:
        """Folder of samples.jsonl, base/ and aligned/: pictures of held-out prompts when training has ended."""
        return self.path / "samples"

    @property
    def trackers(self) -> Path:
        """Folder of what experiment trackers keep."""
        return self.path / "trackers"

    @property
    def aligned(self) -> Path:
        """The result: an ordinary diffusers LoRA or pipeline folder."""
        return self.path / "aligned"

    @property
    def exports(self) -> Path:
        """Folder of files and folders in other tools' formats."""
        return self.path / "exports"

    @property
    def images(self) -> Path:
        """Folder of pairs/, drawn.json, and a folder of evaluation images with metadata.jsonl for each model."""
        return self.path / "images"

    @property
    def drawn(self) -> Path:
        """{models, scales, choose}: which models drew the evaluation prompts, and at which guidance scale."""
        return self.images / "drawn.json"

    @property
    def tried(self) -> Path:
        """Folder of images of the validation prompts, by model and guidance scale."""
        return self.path / "tried"

    def tried_at(self, model: str, scale: float) -> Path:
        """Those of one model at one scale."""
        return self.tried / model / f"{scale:g}"

    def tried_of(self, model: str) -> list[Path]:
        """The folders of one model."""
        return sorted((self.tried / model).glob("*"))

    @property
    def scores(self) -> Path:
        """Folder of {metric}.jsonl: one row an image."""
        return self.path / "scores"

    @property
    def votes(self) -> Path:
        """One row a vote for either model's image: a preference dataset {prompt, chosen, rejected}."""
        return self.path / "votes.jsonl"

    @property
    def ties(self) -> Path:
        """One row a vote for neither."""
        return self.path / "ties.jsonl"

    @property
    def evaluation(self) -> Path:
        """What the metrics found, by model, and how sure the differences are."""
        return self.path / "evaluation.json"

    @property
    def report_html(self) -> Path:
        """The page to look at."""
        return self.path / "report.html"

    @property
    def report_json(self) -> Path:
        """The same figures for programs."""
        return self.path / "report.json"

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        """Versions of what ran, and on what."""
        return self.path / "environment.json"

    @property
    def manifest(self) -> Path:
        """{stage: {settings, inputs, seconds, finished, digest}}."""
        return self.path / "manifest.json"

    @property
    def digests(self) -> Path:
        """Folder of {file: sha256}, one JSON file for each finished stage."""
        return self.path / "digests"

    def result(self, stage: str) -> Path:
        """What a stage is there for."""
        return self.outputs[stage][0]

    @property
    def outputs(self) -> dict[str, tuple[Path, ...]]:
        """What each stage leaves, its result first."""
        pictures, trained = (
            self.images / PAIRS,
            (self.aligned, self.checkpoints, self.rounds, self.log, self.conditions),
        )
        return {
            "degrade": (self.prompts, self.undegraded, self.degradations),
            "sample": (self.pairs, pictures),
            "import": (self.pairs, self.left_out, self.importing, pictures),
            "pretrain": (self.policies, self.pretraining.path),
            "train": (*trained, self.validation, self.samples, self.trackers, self.exports),
            "images": (self.drawn, *self._of_models, self.tried),
            "judge": (self.evaluation, self.scores),
            "report": (self.report_html, self.report_json, self.aligned / "README.md"),
        }

    @property
    def _of_models(self) -> list[Path]:
        """Folders of evaluation images."""
        return sorted(path for path in self.images.glob("*") if path.is_dir() and path.name != PAIRS)

    @property
    def sealed(self) -> dict[str, tuple[Path, ...]]:
        """Of that, what others read: its digests are kept. Shards have theirs in an index; some pictures have none."""
        index = (self.pairs / "index.json", self.pairs / "layout.json")
        return {
            "degrade": (self.prompts, self.undegraded),
            "sample": index,
            "import": (*index, self.left_out),
            "pretrain": (self.policies, self.pretraining.log),
            "train": (self.aligned, self.log, self.samples),
            "images": self.outputs["images"],
            "judge": self.outputs["judge"],
            "report": self.outputs["report"],
        }

    @property
    def continued(self) -> dict[str, tuple[Path, ...]]:
        """What a stage that was interrupted goes on from: where none of it is there, it has not begun."""
        trained = (self.aligned, self.checkpoints, self.rounds)
        return self.outputs | {"pretrain": (self.policies, self.pretraining.checkpoints), "train": trained}

    def clear(self, names: Iterable[str]) -> list[str]:
        """Delete the files of some stages, and nothing else; where votes were cast on them, say where these went."""
        names = set(names)
        for path in [path for name in names for path in self.outputs[name]]:
            remove(path)
        return self._keep_votes() if names & {"train", "images"} else []

    def clear_aligned(self) -> list[str]:
        """Delete the aligned model, and of pictures those that it drew; says where votes on them went."""
        aligned = MODELS[1]
        drawn = (self.images / aligned, self.tried / aligned, self.drawn, self.samples / aligned)
        for path in (self.aligned, self.exports, *drawn):
            remove(path)
        return self._keep_votes()

    def _keep_votes(self) -> list[str]:
        """Votes are a person's work: where their images go, they are put aside."""
        said = []
        for path in (self.votes, self.ties):
            if path.exists():
                number = len(list(self.path.glob(f"{path.stem}-*.jsonl"))) + 1
                aside = path.with_name(f"{path.stem}-{number}.jsonl")
                path.rename(aside)
                said.append(f"{path.name}: kept as {aside}, because the images that were voted on are thrown away")
        return said
