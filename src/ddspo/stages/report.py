"""Everything in the run folder -> report.json for programs and report.html, one self-contained page, for people."""

from ddspo.errors import InputError
from ddspo.files import write_json, write_text
from ddspo.manifest import Manifest
from ddspo.pages.report import environment, page
from ddspo.rows import Row, read_json
from ddspo.run_folder import RunFolder

NOTHING: Row = {"models": [], "choose": None, "scales": {}, "metrics": {}, "sets": {}}


def report(run: RunFolder, name: str, *, evaluated: bool = True, update: int | None = None) -> Row:
    """Write report.json and report.html, and return the former.

    Args:
        run: The run.
        name: Its title.
        evaluated: Whether there is an evaluation to report; without one the page shows training and pairs alone.
        update: The one whose weights are in `aligned/`, if that is known.

    Raises:
        InputError: The run should have been evaluated and was not.
    """
    stages = {stage: row for stage, row in Manifest(run).stages().items() if stage != "report"}
    result = {
        "name": name,
        **(_evaluation(run) if evaluated else NOTHING),
        "stages": {stage: row["seconds"] for stage, row in stages.items()},
        "peak_bytes": {stage: row["peak_bytes"] for stage, row in stages.items() if "peak_bytes" in row},
        "update": update,
        "versions": environment(run).get("versions", {}),
    }
    write_json(run.report_json, result)
    write_text(run.report_html, page(run, result))
    return result


def _evaluation(run: RunFolder) -> Row:
    if not run.evaluation.exists():
        raise InputError(f"{run.path}: not evaluated yet: run `ddspo evaluate` or `ddspo run`")
    found = read_json(run.evaluation, "run `ddspo evaluate`")
    if not found.keys() >= NOTHING.keys():
        raise InputError(f"{run.evaluation}: of another version of ddspo: run `ddspo evaluate --fresh`")
    return found
