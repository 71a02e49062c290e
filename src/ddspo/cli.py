"""The command line: `ddspo run RECIPE [key=value ...]`, one verb a stage, `show` and `list`."""

import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from ddspo import catalogue
from ddspo.afterwards import convert, export, judge, pairs, push, quieten, take, vote
from ddspo.endings import Failed, Verbs, end
from ddspo.errors import Elsewhere, InputError
from ddspo.imports import importing

if TYPE_CHECKING:
    from ddspo.recipe import Recipe
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
    _go(_read(recipe, overrides), (), fresh)


@app.command()
def align(
    model: Annotated[
        str | None, typer.Argument(help="A diffusers folder, a hub id, or one .safetensors file; none: the miniature.")
    ] = None,
    overrides: Overrides = None,
    lora: Annotated[list[str] | None, typer.Option(help="A LoRA, FILE or FILE:SCALE, merged into the model.")] = None,
    config: Annotated[str | None, typer.Option(help="Of one file: a folder or hub id of such a model.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Whose alignment matters, one a line; none: made ones.")] = None,
    budget: Annotated[str | None, typer.Option(help="Time for all of it: 2h, 45m; 2h if not said.")] = None,
    memory: Annotated[str | None, typer.Option(help="Of the card: 24GB; that of the card here if not said.")] = None,
    name: Annotated[str | None, typer.Option(help="The run's; the model's if not said.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; load no weights.")] = False,
    fresh: Fresh = False,
) -> None:
    """A model aligned with no recipe: plan what fits its card and the time, write the recipe, run it."""
    from ddspo.align.command import plan_of, prepared
    from ddspo.align.wish import wished
    from ddspo.align.words import last_words
    from ddspo.progress import Progress

    quieten()
    wish = wished(model, overrides or (), lora or (), config, prompts, (budget, memory, name))
    asked, say = " ".join(["ddspo", *sys.argv[1:]]), Progress().say
    if dry_run:
        print(plan_of(wish, asked, say, dry=True).text, end="")
    else:
        begun = prepared(wish, asked, say)
        flow = _go(begun.recipe, (), fresh, begun.keep)
        print("\n".join(last_words(flow.folder)))


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
    flow = _go(_read(recipe, overrides), ("degrade",), fresh)
    if report and flow.accelerator.is_main_process:
        _report_degradations(flow, PAIRS_OF_A_KIND if gap is None else gap)


@app.command()
def sample(recipe: RecipeFile, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """prompts.jsonl to pairs/: winning and losing latents."""
    _go(_read(recipe, overrides), ("sample",), fresh)


@app.command("import")
def import_(recipe: RecipeFile, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """A preference dataset (`dataset` in the recipe) to pairs/, in place of degrade and sample."""
    _go(_read(recipe, overrides), ("import",), fresh)


@app.command()
def pretrain(recipe: RecipeFile, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """pairs/ to policies/: winner and loser of a data-driven pair."""
    _go(_read(recipe, overrides), ("pretrain",), fresh)


@app.command()
def train(recipe: RecipeFile, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """pairs/ to aligned/: the trained LoRA or pipeline."""
    _go(_read(recipe, overrides), ("train",), fresh)


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
    from ddspo.galleries import write_layouts, written_layout

    how = written_layout(layout) if layout else None
    flow = _go(_read(recipe, overrides), ("images",), fresh)
    if how and flow.accelerator.is_main_process:
        for path in write_layouts(flow.folder, how):
            print(path)


@app.command()
def evaluate(recipe: RecipeFile, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """What is missing of images/, and every metric's judgement of them: scores/, evaluation.json."""
    _go(_read(recipe, overrides), ("images", "judge"), fresh)


@app.command()
def report(recipe: RecipeFile, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """Everything to report.html and report.json."""
    _go(_read(recipe, overrides), ("report",), fresh)


for each in (convert, judge, pairs, take, export, push, vote):
    app.command()(each)


@app.command()
def show(
    recipe: RecipeFile,
    overrides: Overrides = None,
    costs: Annotated[bool, typer.Option("--cost", help="Print what a run will need, without running it.")] = False,
    flops: Annotated[
        float, typer.Option(min=1, help="With --cost: operations a second that the machine sustains, for the hours.")
    ] = 100e12,
) -> None:
    """Print the resolved recipe, the meaning of each field as a comment."""
    from ddspo.recipe import dump, load

    loaded = load(recipe, overrides or ())
    if costs:
        quieten()
        _print_cost(loaded, flops)
    else:
        print(dump(loaded), end="")


def _print_cost(recipe: "Recipe", flops: float) -> None:
    from ddspo.cost.speed import READS, assumed, seconds
    from ddspo.cost.table import cost_table, stage_table, with_unit
    from ddspo.cost.total import cost

    found, console = cost(recipe), Console()
    console.print(cost_table(found))
    console.print(stage_table(found, seconds(found, assumed(recipe, flops, found))))
    rate = f"{with_unit('_flops', int(flops))}/s (--flops) and weights read at {READS / 1e9:g} GB/s"
    shares = ", with whole weights: fsdp divides them, gradients and moments by the processes that share a copy"
    whose = f"each process's{shares if recipe.train.parallel == 'fsdp' else ''}"
    console.print(f"Hours at {rate}; degrading and judging are not counted. Memory is {whose}.")


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


def _read(path: Path, overrides: list[str] | None) -> "Recipe":
    from ddspo.recipe import load

    quieten()
    return load(path, overrides or ())


def _go(
    recipe: "Recipe", stages: tuple[str, ...], fresh: bool, begun: Callable[[], None] = lambda: None
) -> "Workflow":
    """Carry a recipe through its stages; `begun` is called once it is known that it may."""
    with importing():
        from ddspo.pages.headline import headline
        from ddspo.recipe import STAGES
        from ddspo.workflow import Workflow

    first = stages[0] if stages else None
    try:
        flow = Workflow.start(recipe, fresh=fresh, first=first, sure=_sure)
        begun()
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
