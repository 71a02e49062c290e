"""The model card: README.md of whatever leaves this library, true to what the run folder holds when it is written."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from ddspo.backbones.base import Model
from ddspo.exports.base import Aligned, Export
from ddspo.hub import fetched
from ddspo.pages.tables import Line, SetLine, by_tag, metrics, sets
from ddspo.pages.words import decimals
from ddspo.places import local
from ddspo.rows import Row

TEMPLATE = Path(__file__).with_suffix(".md.j2")
PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
TERMS = ("license", "license_name", "license_link")


def model_card(aligned: Aligned, how: Export, where: str, settings: Row, report: Row | None, versions: Row) -> str:
    """The whole card.

    Args:
        aligned: What was trained.
        how: The format that it is handed on in.
        where: Name under which a reader finds it: a hub id, a folder or a file.
        settings: What the stages that made it ran with.
        report: report.json, or None where nothing was evaluated.
        versions: Of the packages that trained it.
    """
    terms = licence(aligned.model)
    whole = not (aligned.is_lora and how.keeps_lora)
    base, on_hub = aligned.base, aligned.hub_id is not None
    data = ModelCardData(
        base_model=base if on_hub else None,
        base_model_relation=("finetune" if whole else "adapter") if on_hub else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["text-to-image", "diffusers", "ddspo", "preference-alignment", *([] if whole else ["lora"])],
        license=terms.get("license"),
        license_name=terms.get("license_name"),
        license_link=terms.get("license_link"),
    )
    kind = "A fine-tuned pipeline" if whole else "A LoRA"
    summary = (
        f"{kind} of {text(base)} ({aligned.pipeline_class}), trained to follow its prompts by ddspo "
        "(Direct Diffusion Score Preference Optimization, [arXiv 2512.23426](https://arxiv.org/abs/2512.23426))."
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=text(aligned.name),
        summary=summary,
        usage=how.usage(aligned, where),
        evaluation=evaluation(report) if report and report["models"] else "Not evaluated.\n",
        recipe=indented(yaml.safe_dump(without_paths(settings), sort_keys=False, width=100)),
        versions=text("Trained with " + ", ".join(f"{name} {version}" for name, version in versions.items())),
        terms=_terms(terms, base),
    )
    return str(card)


def evaluation(report: Row) -> str:
    """Tables of report.json: the scores, the figures of whole sets, the headline by tag, and what each metric is."""
    parts = [*_scores(report), *_sets(report), *_by_tag(report), _meanings(report), _contamination(report)]
    return "\n".join(part for part in parts if part)


def _scores(report: Row) -> list[str]:
    if not report["metrics"]:
        return []
    first = report["models"][0]
    compared = (f"difference from {first}, 95 % interval", "prompts won, 95 % interval")
    rows = [
        (
            block.metric["title"],
            *(line.key.name, line.score, line.control or "–"),
            *(
                [f"{line.difference}, {line.interval}", f"{line.won}, {line.won_interval}"]
                if line.whisker
                else ["", ""]
            ),
        )
        for block in metrics(report)
        for line in block.lines
        if isinstance(line, Line)
    ]
    return [_conditions(report), table(("metric", "model", "score", "floor", *compared), rows)]


def _conditions(report: Row) -> str:
    """On what the scores rest."""
    metric = next(iter(report["metrics"].values()))
    drawn = {model: scale for model, scale in report["scales"].items() if scale is not None}
    scales = ", ".join(f"{text(model)} {scale:g}" for model, scale in drawn.items())
    chosen = f", chosen by {text(report['choose'])} on other prompts" if report["choose"] else ""
    return (
        f"On {metric['prompts']} held-out prompts, {metric['images_per_prompt']} images each, from the same seeds "
        f"where they were drawn here. Guidance scales{chosen}: {scales}. The floor is what images score against the "
        "row of another prompt; won is the share of prompts whose mean is better, ties half.\n"
    )


def _sets(report: Row) -> list[str]:
    rows = [
        (
            block.metric["title"],
            *(line.key.name, line.value, line.change),
            ", ".join(f"{name} {value}" for name, value in line.more),
        )
        for block in sets(report)
        for line in block.lines
        if isinstance(line, SetLine)
    ]
    return [table(("measured as a set", "model", "value", "change", "more"), rows)] if rows else []


def _by_tag(report: Row) -> list[str]:
    """Of the metric that chose the scales, or else the first, if it has more than one tag."""
    metric = report["metrics"].get(report["choose"]) or next(iter(report["metrics"].values()), None)
    if not metric:
        return []
    scores, digits = by_tag(metric), decimals(metric)
    models = list(metric["models"])
    cells = ([f"{row[model]:.{digits}f}" if model in row else "–" for model in models] for row in scores.values())
    rows = [(tag, *each) for tag, each in zip(scores, cells, strict=True)]
    return [table((f"{metric['title']} by tag", *models), rows)] if len(rows) > 1 else []


def _meanings(report: Row) -> str:
    """A line for each metric: what it is, which way is up, and the terms of its weights."""
    lines = []
    for each in (*report["metrics"].values(), *report["sets"].values()):
        lower = "" if each["higher_is_better"] else " Less is better."
        weights = f" Weights: {', '.join(each['licences'])}." if each["licences"] else ""
        terms = "" if each["commercial"] else " No commercial use."
        lines.append(f"- **{text(each['title'])}**: {text(each['about'] + lower + weights + terms)}\n")
    return "".join(lines)


def _contamination(report: Row) -> str:
    found = report.get("contamination")
    if not found or not found["prompts"]:
        return ""
    return f"{found['prompts']} of {found['of']} evaluation prompts are also among the prompts that were trained on.\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [map(text, head), ["---"] * len(head), *(map(text, row) for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def text(value: str) -> str:
    """Anyone's text in one line, every mark that Markdown or HTML might read escaped."""
    return PUNCTUATION.sub(r"\\\1", " ".join(value.split()))


def indented(code: str) -> str:
    """A code block that nothing inside can end."""
    return "".join(f"    {line}\n" for line in code.splitlines())


def without_paths(value: Any) -> Any:
    """Plain data with only the last part of each absolute path: the rest is about somebody's machine."""
    if isinstance(value, Mapping):
        return {key: without_paths(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_paths(each) for each in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def licence(model: Model) -> dict[str, str]:
    """What the base's own model card says of its licence; empty where there is none to read."""
    folder = local(model.path)
    try:
        path = folder / "README.md" if folder else fetched(model.path, model.revision, "README.md")
        found = ModelCard.load(path).data.to_dict() if path else {}
    except Exception:  # no card, no network, no YAML: in each case the licence is not known here, and the card says so
        return {}
    return {key: str(found[key]) for key in TERMS if found.get(key)}


def _terms(terms: Mapping[str, str], base: str) -> str:
    if not terms:
        return (
            f"These weights derive from {text(base)}: its licence applies to them. None was named beside it when this "
            "card was written; look where it was published."
        )
    words = ", ".join(text(value) for value in terms.values())
    return f"These weights derive from {text(base)}, whose model card names this licence: {words}. It applies to them."
