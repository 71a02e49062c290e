"""A kept checkpoint becomes `aligned/`: what a guard advises, or what the validation scores say."""

from dataclasses import replace
from pathlib import Path

from ddspo import recipe
from ddspo.errors import InputError
from ddspo.jobs import Jobs
from ddspo.lock import locked
from ddspo.recipe import STAGES
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.training.checkpoints import Checkpoints
from ddspo.training.guards import best
from ddspo.workflow import Workflow


def take(path: Path, update: int | None) -> int:
    """Put the weights of one update into `aligned/`; what was drawn, judged and said of others is then made again.

    Training counts as finished with it, also where a guard stopped it.

    Args:
        path: A run folder.
        update: Which; None: that of the best validation score.

    Returns:
        The update.

    Raises:
        InputError: There is no run or no such checkpoint, or the run's recipe does not fit it any more.
    """
    run = RunFolder(path)
    if not run.recipe.is_file():
        raise InputError(f"{path}: no run there (no recipe.yaml): give a run folder, for example runs/scenes")
    given = replace(recipe.load(run.recipe), out=str(path.absolute().parent), name=path.absolute().name)
    flow = Workflow.start(given)
    with locked(path):
        flow.standing.check(STAGES)
        for line in Checkpoints(run.checkpoints, keep=1).drop_damaged():
            flow.progress.say(line)
        step, manifest = _choose(run, update), flow.standing.manifest
        manifest.go_on("train")
        for line in manifest.drop_aligned():
            flow.progress.say(line)
        with flow.standing.enter("train"):
            Jobs(flow.found, flow.accelerator, flow.progress).take(step)
        manifest.note("train", {"update": step})
    return step


def _choose(run: RunFolder, update: int | None) -> int:
    kept = Checkpoints(run.checkpoints, keep=1).steps()
    if not kept:
        raise InputError(f"{run.checkpoints}: no checkpoint: run `ddspo train` first")
    there = f"there are those of {', '.join(map(str, kept))}"
    rows = read_rows(run.log) if run.log.exists() else []
    top = best([row for row in rows if row["step"] in kept])
    step = top if update is None else update
    if step is None:
        raise InputError(f"{run.log}: no score of any that is kept: give the number of one, {there}")
    if step not in kept:
        raise InputError(f"{run.checkpoints}: none of update {step}: {there}")
    return step
