"""What is voted on in a run, the votes so far, and what they say. Nothing but the files remembers a vote."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from statistics import fmean

from ddspo import randomness
from ddspo.errors import InputError
from ddspo.files import write_rows
from ddspo.maths.statistics import wilson_interval
from ddspo.pages.scores import drawn_rows, pairs
from ddspo.rows import Row, read_rows
from ddspo.run_folder import MODELS, RunFolder

SIDES = ("left", "right")
TIE = "tie"
WORTH = {"aligned": 1.0, TIE: 0.5, "base": 0.0}


@dataclass(frozen=True)
class Comparison:
    """The images of both models, from one prompt and one seed.

    Attributes:
        id: Its name in the files of votes.
        item: Number of the prompt.
        index: Number of the image among those of the prompt.
        images: Where they are, by model, relative to the run folder.
    """

    id: str
    item: int
    index: int
    seed: int
    prompt: str
    images: Mapping[str, str]

    def model(self, side: str) -> str:
        """Who is shown on a side: always the same, and nothing that the page holds tells."""
        return MODELS[(randomness.stable_seed(self.seed, self.id, "left side") + SIDES.index(side)) % 2]

    def row(self, verdict: str) -> Row:
        """A vote as it is kept; `verdict` is a model or a tie."""
        row = {"id": self.id, "seed": self.seed, "prompt": self.prompt}
        if verdict == TIE:
            return row | dict(self.images)
        lost = MODELS[1 - MODELS.index(verdict)]
        return row | {"chosen": self.images[verdict], "rejected": self.images[lost]}


@dataclass(frozen=True)
class Ballot:
    """All comparisons of a run, in the order in which they are shown.

    Attributes:
        others: Names of what can be voted on otherwise: such votes are kept, and do not count here.
    """

    run: RunFolder
    comparisons: tuple[Comparison, ...]
    others: frozenset[str] = frozenset()

    @classmethod
    def open(cls, path: Path) -> "Ballot":
        """Read what there is to vote on, and check the votes so far.

        These are the images of the evaluation, or else the pictures of the end of training. Every prompt comes once
        before any comes again, in a random order: whoever stops early has seen a fair sample.

        Raises:
            InputError: There is no run or nothing to vote on in it, an image is missing, or a vote is on other images.
        """
        run = RunFolder(path)
        every = [_evaluated(run), _drawn(run)]
        found = next(filter(None, every), None)
        if not found:
            raise InputError(f"{path}: {_nothing(run)}")
        _check_images(run, found)
        found.sort(key=lambda one: (one.index, randomness.stable_seed(one.seed, one.id, "order")))
        ballot = cls(run, tuple(found), frozenset(one.id for each in every if each is not found for one in each))
        ballot.verdicts()
        return ballot

    def verdicts(self) -> dict[str, str]:
        """Model or tie, by id of the comparison; of two votes on one, the last counts.

        Raises:
            InputError: A row is not a vote on this run's images.
        """
        known, votes = {one.id: one for one in self.comparisons}, []
        for path, of in zip(self._files, (MODELS, (TIE,)), strict=True):
            for number, row in enumerate(_rows(path), start=1):
                name, one = row.get("id"), known.get(str(row.get("id")))
                cast = [verdict for verdict in of if one and one.row(verdict).items() <= row.items()]
                if not (type(row.get("number")) is int and (cast or str(name) in self.others)):
                    where = f"{path}:{number}"
                    raise InputError(f"{where}: no vote on this run's images: move the file away to begin anew")
                votes += [(row["number"], str(name), each) for each in cast]
        return {each: verdict for _, each, verdict in sorted(votes, key=itemgetter(0))}

    def state(self) -> Row:
        """What the page may know: {total, done, place, prompt}, the last two null when all is voted on."""
        done = self.verdicts()
        place = next((place for place, one in enumerate(self.comparisons) if one.id not in done), None)
        prompt = None if place is None else self.comparisons[place].prompt
        return {"total": len(self.comparisons), "done": len(done), "place": place, "prompt": prompt}

    def vote(self, place: int, choice: str) -> bool:
        """Keep a vote, `choice` being a side or a tie; False where another comparison is due, and nothing is kept."""
        if place != self.state()["place"]:
            return False
        one = self.comparisons[place]
        verdict = TIE if choice == TIE else one.model(choice)
        path = self.run.ties if verdict == TIE else self.run.votes
        last = max((row["number"] for each in self._files for row in _rows(each)), default=0)
        write_rows(path, [*_rows(path), one.row(verdict) | {"number": last + 1}])
        return True

    def undo(self) -> None:
        """Take the last vote back, if there is one, and any earlier one on the same images."""
        self.verdicts()
        mine = [row for path in self._files for row in _rows(path) if row["id"] not in self.others]
        last = max((row["number"] for row in mine), default=0)
        of = {row["id"] for row in mine if row["number"] == last}
        for path in self._files:
            rows = _rows(path)
            kept = [row for row in rows if row["id"] not in of]
            if len(kept) < len(rows):
                write_rows(path, kept)

    @property
    def _files(self) -> tuple[Path, Path]:
        return self.run.votes, self.run.ties

    def image(self, place: int, side: str) -> Path:
        """The picture on a side of a comparison."""
        one = self.comparisons[place]
        return self.run.path / one.images[one.model(side)]

    def result(self) -> list[str]:
        """The win rate of aligned, its interval, and what they rest on, in lines of text."""
        verdicts = self.verdicts()
        if not verdicts:
            return [f"no votes yet on {len(self.comparisons)} comparisons"]
        by_prompt: dict[int, list[float]] = {}
        for one in self.comparisons:
            if one.id in verdicts:
                by_prompt.setdefault(one.item, []).append(WORTH[verdicts[one.id]])
        rate = fmean(fmean(values) for values in by_prompt.values())
        low, high = wilson_interval(rate, len(by_prompt))
        won, lost, tied = (list(verdicts.values()).count(verdict) for verdict in ("aligned", "base", TIE))
        return [
            f"aligned wins {100 * rate:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f} %",
            f"{len(verdicts)} of {len(self.comparisons)} comparisons: aligned {won}, base {lost}, ties {tied}; "
            f"prompts: {len(by_prompt)}",
            _meaning(low, high),
            "Ties count half; a prompt counts once, with the mean of its images; Wilson interval over prompts.",
        ]


def _evaluated(run: RunFolder) -> list[Comparison]:
    """What the evaluation compares, if both models are through."""
    rows = [drawn_rows(run, model) for model in MODELS]
    if not all(rows):
        return []
    try:
        found = [
            Comparison(
                f"{base['item']:05d}_{base['index']}",
                *(base["item"], base["index"], base["seed"], base["prompt"]),
                {model: f"images/{model}/{row['file_name']}" for model, row in zip(MODELS, pair, strict=True)},
            )
            for pair in pairs(*rows)
            for base in pair[:1]
        ]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{run.images}: a damaged metadata.jsonl: run `ddspo evaluate --fresh`") from None
    if not found:
        raise InputError(f"{run.images}: no image of both models has one seed: run `ddspo evaluate --fresh`")
    return found


def _drawn(run: RunFolder) -> list[Comparison]:
    """The pictures of the end of training, if there are any."""
    try:
        found = [
            Comparison(
                f"end_{row['item']:05d}",
                *(row["item"], 0, row["seed"], row["prompt"]),
                {model: row[model] for model in MODELS},
            )
            for row in _rows(run.samples / "samples.jsonl")
        ]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{run.samples / 'samples.jsonl'}: damaged: delete it and run `ddspo train`") from None
    return found


def _check_images(run: RunFolder, found: list[Comparison]) -> None:
    folders = run.images.resolve(), run.samples.resolve()
    for image in (image for one in found for image in one.images.values()):
        path = (run.path / str(image)).resolve()
        if not (any(map(path.is_relative_to, folders)) and path.is_file()):
            raise InputError(f"{run.path}: no image {image}: `ddspo run` with the recipe makes it again")


def _nothing(run: RunFolder) -> str:
    if not run.recipe.is_file():
        return "no run there (no recipe.yaml): give a run folder, for example runs/scenes"
    return (
        "no pictures of base and aligned yet: `ddspo train` draws some in the end, unless validation.final is 0, and "
        "`ddspo evaluate` does where the recipe says how to evaluate"
    )


def _rows(path: Path) -> list[Row]:
    return read_rows(path) if path.exists() else []


def _meaning(low: float, high: float) -> str:
    if low > 0.5:
        return "The interval lies above 50 %: the aligned model's images are preferred."
    if high < 0.5:
        return "The interval lies below 50 %: the base model's images are preferred."
    return "The interval contains 50 %: these votes do not show that either model is preferred."
