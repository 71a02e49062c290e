"""The report from a hand-made run folder: its figures, and that nothing in a prompt becomes markup."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddspo.run_folder import RunFolder, write_json, write_rows, write_text
from ddspo.stages.report import report

HOSTILE = "</script><img src=x onerror=alert(1)> \u202e & \"quoted\" 'circle'"
VALUES = {"base": [[1, 0], [0, 0], [1, 1]], "aligned": [[1, 1], [0, 1], [1, 0]]}
TAGS = ["colors", "colors", "counting"]


def fake(folder: Path) -> RunFolder:
    """Two prompts of colors and one of counting, two images each; the first prompt is hostile."""
    run = RunFolder(folder)
    rows = []
    for model, prompts in VALUES.items():
        for item, values in enumerate(prompts):
            for index, value in enumerate(values):
                image = f"images/{model}/{item:05d}_{index}.png"
                (folder / image).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((32, 32, 3), 99, np.uint8)).save(folder / image)
                rows.append(
                    {"model": model, "split": "evaluation", "scale": 3.0, "item": item, "index": index, "seed": 1}
                    | {"tag": TAGS[item], "prompt": HOSTILE if item == 0 else f"prompt {item}", "value": float(value)}
                    | {"confident": True, "note": "" if value else "<b>wrong</b>", "saturation": 0.1, "image": image}
                )
        rows.append(rows[-1] | {"split": "validation", "scale": 2.0, "image": None})
    write_rows(run.scores, rows)
    fidelity = {"confident": 1.0, "saturation": 0.1, "distance": None, "diversity": 2.0}
    scales = {"base": 3.0, "aligned": 3.0}
    both = {"base": fidelity, "aligned": fidelity | {"diversity": 1.0}}
    write_json(run.evaluation, {"metric": "geneval", "scales": scales, "fidelity": both})
    write_json(run.environment, {"versions": {"ddspo": "0"}, "machine": {"device": "cpu"}})
    write_json(run.manifest, {"train": {"seconds": 1.5, "finished": True, "settings": {}}})
    write_text(run.recipe, f"prompts: {HOSTILE}\n")
    return run


def test_figures(tmp_path: Path) -> None:
    """Base: colors (1/2 + 0) / 2 = 1/4, counting 1, overall 5/8. Aligned: (1 + 1/2) / 2 = 3/4, 1/2, overall 5/8.

    Differences by prompt: colors 1/2 and 1/2, counting -1/2: every resample gives (1/2 - 1/2) / 2 = 0.
    """
    result = report(fake(tmp_path), "fake")
    metric = result["metrics"]["geneval"]
    assert (metric["base"], metric["aligned"], metric["difference"]) == (0.625, 0.625, 0)
    assert metric["interval"] == [0, 0]
    assert metric["by_tag"] == {"colors": {"base": 0.25, "aligned": 0.75}, "counting": {"base": 1, "aligned": 0.5}}
    assert (metric["prompts"], metric["images_per_prompt"]) == (3, 2)
    assert metric["curve"] == {"base": {"2": 1.0}, "aligned": {"2": 0.0}}
    assert result["stages"] == {"train": 1.5}
    assert json.loads((tmp_path / "report.json").read_text()) == result


class Tags(HTMLParser):
    """Collects elements, their addresses and event handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_the_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    run = fake(tmp_path)
    log = {"loss": 0.7, "lr": 1, "u_mean": 0, "u_std": 0, "accuracy": 0.5, "win_displacement": 0}
    log |= {"lose_displacement": 0, "gap": 0, "cosine": 0, "grad_norm": 1}
    write_rows(run.log, [log | {"step": step} for step in (1, 2)])
    report(run, "fake")
    text = run.report_html.read_text()
    page = Tags()
    page.feed(text)
    assert page.found.count("img") == 12
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert page.handlers == []
    assert "script" not in page.found
    assert "<b>wrong" not in text
    assert page.found.count("svg") == 2
    assert "The interval contains zero" in text


@pytest.mark.parametrize("missing", ["log.jsonl", "images/pairs"])
def test_missing_parts_are_said(tmp_path: Path, missing: str) -> None:
    run = fake(tmp_path)
    report(run, "fake")
    expected = {"log.jsonl": "No training log", "images/pairs": "No pictures of pairs"}[missing]
    assert expected in run.report_html.read_text()
