"""The command line: `ddspo run RECIPE [key=value ...]`, one verb a stage, `show` and `list`."""

import os
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from ddspo import catalogue
from ddspo.endings import Failed, Verbs, end
from ddspo.errors import Elsewhere, InputError

if TYPE_CHECKING:
    from ddspo.exports.base import Export
    from ddspo.workflow import Workflow

RecipeFile = Annotated[Path, typer.Argument(help="A YAML recipe, for example recipes/scenes.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example train.lr=1e-4.")]
Fresh = Annotated[
    bool,
    typer.Option(
        "--fresh",
        help="Throw away what this stage and later ones left; run: from the first stage that a change reaches.",
    ),
]

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, for example runs/scenes.")]
Format = Annotated[str, typer.Option("--format", help="diffusers, comfyui, kohya or merged.")]
Out = Annotated[Path | None, typer.Option(help="File or folder to write; otherwise in RUN/exports.")]
Dtype = Annotated[str | None, typer.Option(help="fp32, bf16 or fp16, where the format lets you choose.")]

PAIRS_OF_A_KIND = 8


app = typer.Typer(cls=Verbs, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def about(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Align text-to-image diffusion models with their prompts; begin with `ddspo run RECIPE`."""
    if version:
        print(f"ddspo {metadata.version('ddspo')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def run(recipe: RecipeFile, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """Make or import pairs, pretrain if the policy pair needs it, train, evaluate, report; run again to continue."""
    _go(recipe, overrides, (), fresh)


@app.command()
def degrade(
    recipe: RecipeFile,
    overrides: Overrides = None,
    fresh: Fresh = False,
    report: Annotated[
        bool, typer.Option("--report", help="Print what was done, and how well the model tells.")
    ] = False,
    gap: Annotated[
        int | None, typer.Option(min=0, help="With --report: pairs of each kind to measure, 8 if not said; 0: none.")
    ] = None,
) -> None:
    """Prompts to prompts.jsonl: every prompt with its degraded variants."""
    if gap is not None and not report:
        raise InputError("--gap: it is part of the report: add --report")
    flow = _go(recipe, overrides, ("degrade",), fresh)
    if report and flow.accelerator.is_main_process:
        _report_degradations(flow, PAIRS_OF_A_KIND if gap is None else gap)


@app.command()
def sample(recipe: RecipeFile, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """prompts.jsonl to pairs/: winning and losing latents."""
    _go(recipe, overrides, ("sample",), fresh)


@app.command("import")
def import_(recipe: RecipeFile, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """A preference dataset (`dataset` in the recipe) to pairs/, in place of degrade and sample."""
    _go(recipe, overrides, ("import",), fresh)


@app.command()
def pretrain(recipe: RecipeFile, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """pairs/ to policies/: winner and loser of a data-driven pair."""
    _go(recipe, overrides, ("pretrain",), fresh)


@app.command()
def train(recipe: RecipeFile, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """pairs/ to aligned/: the trained LoRA or pipeline."""
    _go(recipe, overrides, ("train",), fresh)


@app.command()
def images(
    recipe: RecipeFile,
    overrides: Overrides = None,
    fresh: Fresh = False,
    layout: Annotated[
        str | None, typer.Option(help="Also write them to RUN/layouts as geneval or t2i_compbench has them.")
    ] = None,
) -> None:
    """Base, aligned and whoever else draw the evaluation prompts, from the same seeds: images/."""
    flow = _go(recipe, overrides, ("images",), fresh)
    if layout and flow.accelerator.is_main_process:
        from ddspo.galleries import write_layouts

        for path in write_layouts(flow.folder, layout):
            print(path)


@app.command()
def evaluate(recipe: RecipeFile, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """What is missing of images/, and every metric's judgement of them: scores/, evaluation.json."""
    _go(recipe, overrides, ("images", "judge"), fresh)


@app.command()
def judge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Folders of images; the first is the baseline.")
    ],
    metric: Annotated[list[str], typer.Option("--metric", help="What judges; may be given several times.")],
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="For example geneval.detector=scenes.")
    ] = None,
    references: Annotated[Path | None, typer.Option(help="Real images for metrics that need some.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for figures and the score of every image.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images that a judge gets at once.")] = 16,
    skip_damaged: Annotated[bool, typer.Option("--skip-damaged", help="Judge the rest, and say how many.")] = False,
) -> None:
    """Images that anyone made, in whatever layout: scores, and how folders differ from the first."""
    from ddspo.verdicts import Wanted, judge

    _quieten()
    judge(Wanted(tuple(folders), tuple(metric), tuple(options or ()), references, out, batch, skip_damaged), Console())


@app.command()
def report(recipe: RecipeFile, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """Everything to report.html and report.json."""
    _go(recipe, overrides, ("report",), fresh)


@app.command()
def pairs(path: Annotated[Path, typer.Argument(metavar="PATH", help="A run folder, or a folder of shards.")]) -> None:
    """What is in pairs/: statistics, damaged shards by name, and a sheet of pictures of some pairs."""
    from ddspo import components
    from ddspo.backbones.base import Model
    from ddspo.stages.pairs import contact_sheet, inspect

    found = inspect(path)
    print("\n".join(found.lines()))
    if found.origin:
        _quieten()
        made, keys = found.origin.made, ("revision", "dtype", "resolution")
        given = {"path": made.get("model")} | {key: made[key] for key in keys if made.get(key) is not None}
        try:
            model = components.construct(Model, given, "model")
            print(contact_sheet(found, components.backbone_of(model).load(model).decode))
        except InputError as error:
            print(f"no pictures: {error}")
    if found.damaged:
        raise typer.Exit(1)


@app.command()
def export(run: RunPath, kind: Format, out: Out = None, dtype: Dtype = None) -> None:
    """aligned/ to a file or folder that another tool reads."""
    from ddspo.result import Result
    from ddspo.stages.export import export

    _quieten()
    result, how = Result.open(run), _exporter(kind, dtype)
    path = out or result.folder.exports / result.file_name(how)
    export(result.aligned, how, path, result.card(how, path.name))
    print(path)


@app.command()
def push(
    run: RunPath,
    hub_id: Annotated[str, typer.Argument(help="OWNER/NAME of a model repository; it is made if need be.")],
    kind: Format = "diffusers",
    dtype: Dtype = None,
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be uploaded, and upload nothing.")
    ] = False,
) -> None:
    """aligned/, its model card and report.json to the Hugging Face hub."""
    from huggingface_hub import HfApi

    from ddspo.result import Result
    from ddspo.stages.push import check_name, check_token, describe, push

    _quieten()
    check_name(hub_id)
    result, how, api = Result.open(run), _exporter(kind, dtype), HfApi()
    how.check(result.aligned)
    if not dry_run:
        check_token(api)
    with result.uploads(how, hub_id) as uploads:
        print(describe(uploads, hub_id) if dry_run else push(uploads, hub_id, private, api))


@app.command()
def vote(
    run: RunPath,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets your network in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8321,
    result: Annotated[bool, typer.Option("--result", help="Print the result so far, without voting.")] = False,
) -> None:
    """Compare base and aligned images blind in a browser: votes.jsonl, a preference dataset, and the win rate."""
    from ddspo.pages.ballot import Ballot
    from ddspo.pages.vote import serving

    ballot = Ballot.open(run)
    if not result:
        with serving(ballot, host, port) as server, suppress(KeyboardInterrupt):
            print(f"{server.url}  (Ctrl-C ends; every vote is kept at once)", flush=True)
            server.serve_forever()
    print("\n".join(ballot.result()))


@app.command()
def show(
    recipe: RecipeFile,
    overrides: Overrides = None,
    costs: Annotated[bool, typer.Option("--cost", help="Print what a run will need, without running it.")] = False,
) -> None:
    """Print the resolved recipe, the meaning of each field as a comment."""
    from ddspo.recipe import dump, load

    loaded = load(recipe, overrides or ())
    if costs:
        from ddspo.cost.table import cost_table
        from ddspo.cost.total import cost

        _quieten()
        Console().print(cost_table(cost(loaded)))
    else:
        print(dump(loaded), end="")


@app.command("list")
def list_() -> None:
    """Print every component and what it is."""
    table = Table("kind", "name", "what it is", box=None)
    for kind in catalogue.kinds():
        for name in catalogue.names(kind):
            table.add_row(kind, name, catalogue.first_line(kind, name))
    Console().print(table)


def main() -> None:
    """Entry point: whatever goes wrong is one line, said by one process of a machine; every process exits non-zero."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):  # read while they are imported, which `_quieten` is too late for
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    try:
        try:
            sys.exit(app(prog_name="ddspo", standalone_mode=False))
        finally:
            sys.stdout.flush()  # or what cannot be printed would only be known when the interpreter ends
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(end(error))


def _go(path: Path, overrides: list[str] | None, stages: tuple[str, ...], fresh: bool) -> "Workflow":
    from ddspo.pages.headline import headline
    from ddspo.recipe import STAGES, load
    from ddspo.workflow import Workflow

    _quieten()
    recipe, first = load(path, overrides or ()), stages[0] if stages else None
    try:
        flow = Workflow.start(recipe, fresh=fresh, first=first, sure=_sure)
        flow.run(stages)
    except (InputError, Elsewhere):
        raise
    except (Exception, KeyboardInterrupt) as error:
        raise Failed(recipe.folder) from error
    if "report" in (stages or STAGES) and flow.accelerator.is_main_process:
        print("\n".join(headline(flow.result()) or [f"not evaluated: `ddspo vote {flow.folder.path}` compares"]))
        print(flow.folder.report_html)
    return flow


def _sure(question: str) -> bool:
    """Ask a person, if one is there."""
    return typer.confirm("Go on?") if sys.stdin.isatty() else True


def _report_degradations(flow: "Workflow", pairs: int) -> None:
    from ddspo import components
    from ddspo.backbones._sampler import sampling_with
    from ddspo.stages.degrade_report import Measure, degrade_page, degrade_report

    given, how = flow.recipe, flow.recipe.sample
    if pairs:
        backbone = components.backbone_of(given.model).load(given.model).to(flow.accelerator.device)
        measure = Measure(backbone, pairs, *how.how(backbone), how.batch, given.seed)
        with sampling_with(backbone, how.scheduler, how.scheduler_options):
            found = degrade_report(flow.folder, measure, flow.progress)
    else:
        found = degrade_report(flow.folder, None, flow.progress)
    Console().print(degrade_page(found))
    print(flow.folder.degradations / "report.json")


def _exporter(kind: str, dtype: str | None) -> "Export":
    from ddspo import components
    from ddspo.exports.base import Export

    return components.construct(Export, {kind: {"dtype": dtype} if dtype else {}}, "--format")


def _quieten() -> None:
    """Loading bars and notes of the libraries below would drown what this one has to say."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
