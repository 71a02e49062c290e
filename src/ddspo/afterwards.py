"""Commands on what is there already: pairs, a finished run, one-file models, and images that anyone made."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ddspo.errors import InputError

if TYPE_CHECKING:
    from ddspo.exports.base import Export

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, for example runs/scenes.")]
Format = Annotated[str, typer.Option("--format", help="diffusers, comfyui, kohya or merged.")]
Out = Annotated[Path | None, typer.Option(help="File or folder to write; otherwise in RUN/exports.")]
Dtype = Annotated[str | None, typer.Option(help="fp32, bf16 or fp16, where the format lets you choose.")]


def pairs(path: Annotated[Path, typer.Argument(metavar="PATH", help="A run folder, or a folder of shards.")]) -> None:
    """What is in pairs/: statistics, damaged shards by name, and a sheet of pictures of some pairs."""
    from ddspo import components
    from ddspo.backbones.base import Model
    from ddspo.stages.pairs import contact_sheet, inspect

    found = inspect(path)
    print("\n".join(found.lines()))
    if found.origin:
        quieten()
        made, keys = found.origin.made, ("revision", "dtype", "resolution")
        given = {"path": made.get("model")} | {key: made[key] for key in keys if made.get(key) is not None}
        try:
            model = components.construct(Model, given, "model")
            print(contact_sheet(found, components.backbone_of(model).load(model).decode))
        except InputError as error:
            print(f"no pictures: {error}")
    if found.damaged:
        raise typer.Exit(1)


def convert(
    model: Annotated[str, typer.Argument(help="A .safetensors file; with --lora, also a folder or hub id.")],
    folder: Annotated[Path, typer.Argument(help="Diffusers folder to write.")],
    lora: Annotated[
        list[str] | None, typer.Option(metavar="FILE[:SCALE]", help="LoRA to merge; may be given several times.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of the file's kind, for its configuration and parts that it lacks."),
    ] = None,
    dtype: Dtype = None,
) -> None:
    """A model in one file, or a model and LoRA files, to a diffusers folder, which model.path names."""
    from ddspo import components
    from ddspo.conversion import Origin, Precision, converted

    quieten()
    precision = components.construct(Precision, dtype, "--dtype") if dtype else None
    converted(Origin(model, tuple(lora or ()), config), folder, precision)
    print(folder)


def take(
    run: RunPath,
    update: Annotated[int | None, typer.Argument(metavar="[UPDATE]", help="Otherwise the best by score.")] = None,
) -> None:
    """A kept checkpoint becomes aligned/; then `ddspo run` evaluates it."""
    from ddspo.run_folder import RunFolder
    from ddspo.taking import take

    quieten()
    print(f"update {take(run, update)} -> {RunFolder(run).aligned}")


def export(run: RunPath, kind: Format, out: Out = None, dtype: Dtype = None) -> None:
    """aligned/ to a file or folder that another tool reads."""
    from ddspo.result import Result
    from ddspo.stages.export import export

    quieten()
    result, how = Result.open(run), _exporter(kind, dtype)
    path = out or result.folder.exports / result.file_name(how)
    export(result.aligned, how, path, result.card(how, path.name))
    print(path)


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

    quieten()
    check_name(hub_id)
    result, how, api = Result.open(run), _exporter(kind, dtype), HfApi()
    how.check(result.aligned)
    if not dry_run:
        check_token(api)
    with result.uploads(how, hub_id) as uploads:
        print(describe(uploads, hub_id) if dry_run else push(uploads, hub_id, private, api))


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

    quieten()
    judge(Wanted(tuple(folders), tuple(metric), tuple(options or ()), references, out, batch, skip_damaged), Console())


def _exporter(kind: str, dtype: str | None) -> "Export":
    from ddspo import components
    from ddspo.exports.base import Export

    return components.construct(Export, {kind: {"dtype": dtype} if dtype else {}}, "--format")


def quieten() -> None:
    """Loading bars and notes of the libraries below would drown what this one has to say."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
