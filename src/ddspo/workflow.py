"""Carries a recipe through the stages: checks everything first, skips what is finished, continues what is not."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from accelerate import Accelerator

from ddspo import recipe
from ddspo.agreement import agree, alone
from ddspo.checks import Checked, check, check_place
from ddspo.errors import InputError
from ddspo.files import tidy, write_json, write_text
from ddspo.jobs import Jobs
from ddspo.lock import locked
from ddspo.manifest import Manifest
from ddspo.progress import Progress
from ddspo.recipe import STAGES, Recipe
from ddspo.rows import Row, read_json
from ddspo.run_folder import RunFolder
from ddspo.standing import Standing
from ddspo.training import processes
from ddspo.training.clock import Clock

MENDING = ("sample", "import")
"""Stages that look for damage where they are finished, if they are asked for by name."""
SAID = 5
"""Damaged files that are named."""
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
        degraded = folder.prompts if flow.standing.manifest.is_whole("degrade") else None
        method = Jobs(flow.found, accelerator, flow.progress).method
        flow.found = agree(lambda: check(given, method, accelerator.num_processes, degraded))
        begin = (first or flow.standing.first_changed()) if fresh else None
        if begin == "degrade" and degraded:  # whose source was not looked at, and what it gave is to be thrown away
            flow.found = agree(lambda: check(given, method, accelerator.num_processes, None))
        for remark in flow.found.remarks:
            flow.progress.say(remark)
        cleared = STAGES[STAGES.index(begin) :] if begin else ()
        if first:
            flow.standing.needs(first)
        flow.standing.check(set(STAGES) - set(cleared))
        for name in flow.standing.growth().goes_on:
            if first and name not in cleared and STAGES.index(name) < STAGES.index(first):
                raise InputError(f"{name} grows before {first}: run `ddspo {name}` first, or `ddspo run`")
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
            alone(lambda: self._check_judges(stages or self.recipe.stages))
            for name in stages or self.recipe.stages:
                standing.needs(name)
                alone(partial(self._mend, name))
                Clock.peak(self.accelerator.device)  # of what was before
                with standing.enter(name) as left:
                    if left or (name in MENDING and name in stages):
                        Jobs(self.found, self.accelerator, self.progress).run(name)
                        self.accelerator.free_memory()  # a stage gives back what it held
                if left:
                    standing.manifest.note(name, Clock.peak(self.accelerator.device))
                self.accelerator.wait_for_everyone()
                seconds, where = standing.manifest.entry(name).get("seconds", 0), self.folder.result(name)
                self.progress.say(f"{name:<9} {'done' if left else 'kept'} in {seconds:.0f} s -> {where}")

    def _check_judges(self, stages: tuple[str, ...]) -> None:
        """Find out, before hours of other work, whether the weights of all judges that will be asked can be had."""
        given, left = self.recipe, [name for name in stages if not self.standing.manifest.has_finished(name)]
        judges = list(given.evaluate.metrics) if given.evaluate and "judge" in left else []
        judges += [given.scoring] if given.scoring and "train" in left else []
        for judge in judges:
            for weights in judge.weights:
                weights.check()
            judge.identity(self.accelerator.device)

    def _mend(self, name: str) -> None:
        lines = self.standing.mend(name)
        for line in lines[:SAID]:
            self.progress.say(f"{name}: {line}")
        if len(lines) > SAID:
            self.progress.say(f"{name}: and so are {len(lines) - SAID} more files")

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
            growth = self.standing.growth()
            self._ask((*cleared, *growth.anew), sure)
            for line in self.standing.manifest.forget(cleared) if cleared else ():
                self.progress.say(line)
            growth = self.standing.growth()  # of what is left
            for line in self.standing.grow(growth) if growth.goes_on else ():
                self.progress.say(line)
            self._describe()

    def _ask(self, lost: tuple[str, ...], sure: Callable[[str], bool]) -> None:
        """Whether the work of some stages may be thrown away, if it was long."""
        begun = {name: self.standing.manifest.entry(name).get("seconds", 0.0) for name in lost}
        long = [f"{name} ({seconds / 60:.0f} min)" for name, seconds in begun.items() if seconds > LONG]
        if long:
            question = f"throws away what was made in {self.folder.path} by {', '.join(long)}"
            self.progress.say(question)
            if not sure(question):
                raise InputError("nothing was thrown away: ask for what there was, or choose another name=...")

    def _describe(self) -> None:
        """Write down what runs, and on what."""
        write_text(self.folder.recipe, recipe.dump(self.recipe))
        write_json(self.folder.environment, processes.environment(self.accelerator))
