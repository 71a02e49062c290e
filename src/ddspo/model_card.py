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
from ddspo.pages.report import FIDELITY
from ddspo.places import local
from ddspo.rows import Row
from ddspo.run_folder import MODELS

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
        evaluation=evaluation(report) if report and report["metrics"] else "Not evaluated.\n",
        recipe=indented(yaml.safe_dump(without_paths(settings), sort_keys=False, width=100)),
        versions=text("Trained with " + ", ".join(f"{name} {version}" for name, version in versions.items())),
        terms=_terms(terms, base),
    )
    return str(card)


def evaluation(report: Row) -> str:
    """Tables of report.json."""
    parts = []
    for name, metric in report["metrics"].items():
        scales, (low, high) = metric["scales"], metric["interval"]
        rows = [("all", metric["base"], metric["aligned"])]
        rows += [(tag, row["base"], row["aligned"]) for tag, row in metric["by_tag"].items()]
        parts.append(
            f"{text(name)} on {metric['prompts']} held-out prompts, {metric['images_per_prompt']} images each, base "
            f"and aligned with the same seeds, each at its best guidance scale on other prompts (base "
            f"{scales['base']:g}, aligned {scales['aligned']:g}). Difference {metric['difference']:+.3f}, 95 % "
            f"interval {low:+.3f} to {high:+.3f}.\n\n{table((name, 'base', 'aligned'), rows)}"
        )
    base, aligned = (report["fidelity"].get(model, {}) for model in MODELS)
    measures = [(": ".join(names), base.get(key), aligned.get(key)) for key, names in FIDELITY.items()]
    rows = [row for row in measures if None not in row]
    return "\n".join([*parts, table(("fidelity", "base", "aligned"), rows)] if rows else parts)


def table(head: Sequence[str], rows: Sequence[tuple[str, float, float]]) -> str:
    """A Markdown table of named numbers."""
    lines = [f"| {' | '.join(map(text, head))} |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {text(name)} | {base:.3f} | {aligned:.3f} |" for name, base, aligned in rows), ""])


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
