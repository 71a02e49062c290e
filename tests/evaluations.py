"""A run that was evaluated, written by hand: three models, four metrics of which one is better when less, two sets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddspo.files import write_json, write_rows
from ddspo.rows import Row
from ddspo.run_folder import RunFolder

MODELS = ("base", "aligned", "other")
TAGS = ("colors", "colors", "counting")
VALUES: dict[str, dict[str, Sequence[Sequence[float]]]] = {
    "geneval": {
        "base": ((0, 1), (1, 1), (0, 0)),
        "aligned": ((1, 1), (1, 0), (1, 0)),
        "other": ((1, 1), (1, 1), (1, 1)),
    },
    "pick_score": {
        "base": ((20, 20), (21, 21), (22, 22)),
        "aligned": ((20.5, 20), (20, 23), (22, 22)),
        "other": ((20, 20), (21, 21), (22, 22)),
    },
    "saturation": {
        "base": ((0.5, 0.5), (0.5, 0.5), (0.5, 0.5)),
        "aligned": ((0.25, 0.5), (0.75, 0.5), (0.5, 0.5)),
        "other": ((0.5, 0.5), (0.5, 0.5), (0.5, 0.25)),
    },
    "image_reward": {
        "base": ((-1, -1), (0, 0), (1, 1)),
        "aligned": ((-1, -1), (0, 0), (1, 1)),
        "other": ((-2, -1), (0, 0), (1, 1)),
    },
}
"""By metric, model, prompt and seed."""
TITLES = ("GenEval", "PickScore", "Saturation", "ImageReward")


def paint(path: Path, size: int = 8) -> None:
    """A picture that no other file has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = list(str(path).encode())
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)).save(path, format="PNG")


def score_rows(metric: str, prompts: Sequence[str], note: str = "") -> list[Row]:
    """Rows of the evaluation, of a control and of validation, of which only the first are to be read."""
    rows = []
    for model, items in VALUES[metric].items():
        for item, values in enumerate(items):
            for index, value in enumerate(values):
                row = {"model": model, "split": "evaluation", "scale": 3.0, "item": f"{item:05d}", "index": index}
                row |= {"image": f"images/{model}/{item:05d}_{index}.png", "tag": TAGS[item], "prompt": prompts[item]}
                rows.append(row | {"value": float(value), "note": "" if value else note, "control": False})
            rows.append(rows[-1] | {"control": True, "value": 99.0, "note": "of another prompt"})
            rows.append(rows[-1] | {"split": "validation", "control": False, "image": None})
    return rows


def metric(title: str, models: Mapping[str, Row], **more: Any) -> Row:
    """The part of report.json on a metric."""
    found: Row = {"title": title, "about": f"What {title} is.", "higher_is_better": True, "licences": []}
    found |= {"commercial": True, "prompts": 3, "images_per_prompt": 2, "models": models}
    return found | {"curve": {}, "by_scale": {}} | more


def scored(score: float, tags: Mapping[str, float], control: float | None = 0.125, **compared: Any) -> Row:
    """The part of it on a model; `compared` with the first."""
    return {"score": score, "by_tag": dict(tags), "control": control} | compared


def against(difference: float, low: float, high: float, won: float = 0.75) -> Row:
    """A difference from the first model."""
    return {"difference": difference, "interval": [low, high], "won": won, "won_interval": [won - 0.25, won + 0.125]}


def evaluation() -> Row:
    """What is in evaluation.json."""
    curve = {"base": {"1": 0.25, "2": 0.375, "3": 0.5}, "aligned": {"1": 0.5, "2": 0.75, "3": 0.5}}
    found: Row = {"models": list(MODELS), "choose": "geneval", "scales": {"base": 3.0, "aligned": 2.0, "other": None}}
    found["metrics"] = {
        "geneval": metric(
            "GenEval",
            {
                "base": scored(0.375, {"colors": 0.75, "counting": 0.0}),
                "aligned": scored(0.625, {"colors": 0.75, "counting": 0.5}, **against(0.25, 0.0, 0.5)),
                "other": scored(1.0, {"colors": 1.0, "counting": 1.0}, **against(0.625, 0.5, 0.75)),
            },
            curve=curve,
            by_scale={"aligned": {"1": {"difference": 0.25, "interval": [0.125, 0.375]}}},
        ),
        "pick_score": metric(
            "PickScore",
            {
                "base": scored(21.0, {"colors": 20.5, "counting": 22.0}),
                "aligned": scored(21.25, {"colors": 20.875, "counting": 22.0}, **against(0.25, -0.5, 1.0)),
                "other": scored(21.0, {"colors": 20.5, "counting": 22.0}, **against(0.0, 0.0, 0.0)),
            },
            licences=["some/weights (MIT)"],
        ),
        "saturation": metric(
            "Saturation",
            {
                "base": scored(0.5, {"all": 0.5}, None),
                "aligned": scored(0.5, {"all": 0.5}, None, **against(0.25, 0.125, 0.375, 0.25)),
                "other": scored(0.25, {"all": 0.25}, None, **against(-0.25, -0.375, -0.125)),
            },
            higher_is_better=False,
        ),
        "image_reward": metric(
            "ImageReward",
            {
                "base": scored(0.0, {"colors": -0.5, "counting": 1.0}),
                "aligned": scored(0.0, {"colors": -0.5, "counting": 1.0}, **against(0.0, 0.0, 0.0)),
                "other": scored(-0.25, {"colors": -0.75, "counting": 1.0}, **against(-0.25, -0.5, -0.125)),
            },
            licences=["a reward (CC BY-NC 4.0: no commercial use)"],
            commercial=False,
        ),
    }
    values = {"base": 8.0, "aligned": 10.0, "other": 4.0}
    sizes = {model: {"value": 0.0, "more": {"deviation": 0.5}} for model in MODELS}
    found["sets"] = {
        "fid": metric("FID", {model: {"value": value, "more": {}} for model, value in values.items()})
        | {"higher_is_better": False},
        "diversity": metric("Diversity", sizes),
    }
    return found


def write_evaluation(run: RunFolder, prompts: Sequence[str], note: str = "", size: int = 8) -> None:
    """All that an evaluation leaves and a report reads."""
    for name in VALUES:
        rows = score_rows(name, prompts, note)
        write_rows(run.scores / f"{name}.jsonl", rows)
        for row in rows:
            if row["image"] and not (run.path / row["image"]).exists():
                paint(run.path / row["image"], size)
    write_json(run.evaluation, evaluation())
