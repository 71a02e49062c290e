"""The report of a small run made by hand: its numbers, and that no prompt gets out of its place."""

import base64
import io
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddspo.errors import InputError
from ddspo.files import write_json, write_rows, write_text
from ddspo.pages import figures
from ddspo.rows import Row
from ddspo.run_folder import RunFolder
from ddspo.stages.report import report

HOSTILE = "</script></pre><img src=x onerror=alert(1)>\" ' onload='alert(2)' {{ 7 * 7 }} <svg/onload=alert(3)>"
VERDICTS: dict[str, dict[int, tuple[int, int]]] = {
    "base": {0: (0, 1), 1: (1, 1), 2: (0, 0)},
    "aligned": {0: (1, 1), 1: (1, 0), 2: (1, 0)},
}
TAGS = ("colors", "colors", "counting")
PROMPTS = ("a red circle", "a green square", HOSTILE)
COLUMNS = ("loss", "lr", "u_mean", "u_std", "accuracy", "win_displacement", "lose_displacement", "gap", "cosine")


class Page(HTMLParser):
    """Elements opened, in order, with their attributes; closing tags must match."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def paint(path: Path, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(size).integers(0, 255, (size, size, 3), np.uint8)).save(path, format="PNG")


def score(model: str, split: str, scale: float, item: int, index: int, value: float) -> Row:
    return {
        **{"model": model, "split": split, "scale": scale, "item": item, "index": index, "seed": 100 * item + index},
        **{"tag": TAGS[item], "prompt": PROMPTS[item], "value": float(value), "confident": True},
        **{"note": "" if value else f"wrong: {HOSTILE}", "saturation": 0.25},
        "image": f"images/{model}/{item:05d}_{index}.png" if split == "evaluation" else None,
    }


def evaluation_rows() -> list[Row]:
    scales = {"base": 3.0, "aligned": 2.0}
    return [
        score(model, "evaluation", scales[model], item, index, value)
        for model, items in VERDICTS.items()
        for item, values in items.items()
        for index, value in enumerate(values)
    ]


def validation_rows() -> list[Row]:
    """At scale 1 nothing is right; at scale 2 `colors` is, for both models."""
    return [
        score(model, "validation", scale, item, 0, scale == 2 and TAGS[item] == "colors")
        for model in VERDICTS
        for scale in (1.0, 2.0)
        for item in range(3)
    ]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Three prompts of two tags, two images each, and every optional part."""
    folder = RunFolder(tmp_path)
    rows = evaluation_rows()
    for row in rows:
        paint(folder.path / row["image"])
    write_rows(folder.scores, [*validation_rows(), *rows])
    fidelity = {"confident": 0.5, "saturation": 0.2, "distance": 8.0, "diversity": 3.0}
    scales = {"base": 3.0, "aligned": 2.0}
    cost = {"base": fidelity, "aligned": fidelity | {"distance": 10.0}}
    write_json(folder.evaluation, {"metric": "geneval", "scales": scales, "fidelity": cost})
    stage = {"key": "k", "settings": {}, "finished": True}
    write_json(folder.manifest, {"train": stage | {"seconds": 12.5}, "report": stage | {"seconds": 0.0}})
    write_json(folder.environment, {"versions": {"torch": "2.9"}, "machine": {"cpu": HOSTILE}})
    write_text(folder.recipe, f"name: small\nprompts: {HOSTILE}\n")
    write_rows(folder.log, [{"step": step, "grad_norm": 1.0} | dict.fromkeys(COLUMNS, 0.5) for step in range(1, 6)])
    pair = {"n": 0, "id": "p0", "prompt": HOSTILE, "degraded": f"lost {HOSTILE}", "seed": 1}
    write_rows(folder.images / "pairs" / "pairs.jsonl", [pair])
    for kind in ("win", "lose"):
        paint(folder.images / "pairs" / f"0-{kind}.png", size=80)
    return folder


def page(run: RunFolder) -> Page:
    return Page(run.report_html.read_text(encoding="utf-8"))


def test_numbers(run: RunFolder) -> None:
    """By hand, base: colors (0 + 1 + 1 + 1) / 4 = 0.75, counting 0 / 2 = 0, overall (0.75 + 0) / 2 = 0.375.

    Aligned: colors (1 + 1 + 1 + 0) / 4 = 0.75, counting 1 / 2, overall 0.625; difference 0.25. Of the prompts the
    differences are +1/2 and -1/2 in colors, +1/2 in counting. A resample of colors has mean -1/2, 0, 1/2 with chances
    1/4, 1/2, 1/4; of counting always 1/2; so the overall one is 0, 1/4, 1/2, and its 95 % interval [0, 1/2].
    """
    result = report(run, "small")
    assert json.loads(run.report_json.read_text()) == result
    assert result == {
        "name": "small",
        "metrics": {
            "geneval": {
                "base": 0.375,
                "aligned": 0.625,
                "difference": 0.25,
                "interval": [0.0, 0.5],
                "by_tag": {"colors": {"base": 0.75, "aligned": 0.75}, "counting": {"base": 0.0, "aligned": 0.5}},
                "prompts": 3,
                "images_per_prompt": 2,
                "scales": {"base": 3.0, "aligned": 2.0},
                "curve": {"base": {"1": 0.0, "2": 0.5}, "aligned": {"1": 0.0, "2": 0.5}},
                "by_scale": {scale: {"difference": 0.0, "interval": [0.0, 0.0]} for scale in ("1", "2")},
            }
        },
        "fidelity": {
            "base": {"confident": 0.5, "saturation": 0.2, "distance": 8.0, "diversity": 3.0},
            "aligned": {"confident": 0.5, "saturation": 0.2, "distance": 10.0, "diversity": 3.0},
        },
        "stages": {"train": 12.5},
        "versions": {"torch": "2.9"},
    }


def test_the_page_says_it_in_words(run: RunFolder) -> None:
    report(run, "small")
    text = " ".join(page(run).text.split())
    assert "0.375 → 0.625" in text
    assert "+0.250, 95 % interval +0.000 to +0.500" in text
    assert "The interval contains zero" in text
    assert "base 3, aligned 2" in text
    assert "2 of 3 improved" in text
    assert "1 of 3 got worse" in text
    assert "+25.0 %" in text
    assert " in this run" not in text


def test_an_interval_without_zero_is_said_too(run: RunFolder) -> None:
    better = [row | {"value": float(row["model"] == "aligned")} for row in evaluation_rows()]
    write_rows(run.scores, better)
    report(run, "small")
    assert "The interval lies above zero" in page(run).text
    write_rows(run.scores, [row | {"value": 1 - row["value"]} for row in better])
    report(run, "small")
    assert "The interval lies below zero" in page(run).text


def test_hostile_text_is_only_text(run: RunFolder) -> None:
    report(run, f"small {HOSTILE}")
    raw, made = run.report_html.read_text(encoding="utf-8"), page(run)
    assert HOSTILE not in raw
    assert "<img src=x" not in raw
    assert HOSTILE in made.text
    assert "{{ 7 * 7 }}" in made.text
    assert not made.all("script")
    assert not [attributes for _, attributes in made.elements if any(key.startswith("on") for key in attributes)]
    assert HOSTILE in {attributes["alt"].removeprefix("win: ") for attributes in made.all("img") if attributes["alt"]}


def test_the_page_needs_nothing_else(run: RunFolder) -> None:
    """Whatever an element refers to is inside the page, and every image is whole."""
    report(run, "small")
    made = page(run)
    keys = ("src", "href", "xlink:href", "action", "data", "poster", "srcset", "rdf:resource")
    references = [value for _, attributes in made.elements for key in keys if (value := attributes.get(key))]
    assert all(reference.startswith(("data:image/", "#")) for reference in references)
    assert not made.all("link")
    style = made.text[made.text.index(":root") : made.text.index("pre {")]
    assert "url(" not in style
    assert "@import" not in style
    images = [attributes["src"] or "" for attributes in made.all("img")]
    assert len(images) == 12 + 2
    sizes = [Image.open(io.BytesIO(base64.b64decode(image.split(",")[1]))).size for image in images]
    assert sizes == [(8, 8)] * 12 + [(80, 80)] * 2
    assert [attributes.get("class") for attributes in made.all("img")] == ["small"] * 12 + [None] * 2


def test_large_images_become_thumbnails(run: RunFolder) -> None:
    paint(run.images / "pairs" / "0-win.png", size=600)
    report(run, "small")
    win = next(a["src"] or "" for a in page(run).all("img") if (a["alt"] or "").startswith("win"))
    assert win.startswith("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(win.split(",")[1]))).size == (256, 256)


def test_the_same_run_gives_the_same_page(run: RunFolder) -> None:
    report(run, "small")
    first = run.report_html.read_bytes()
    report(run, "small")
    assert run.report_html.read_bytes() == first


def remove(run: RunFolder, *names: str) -> None:
    for name in names:
        (run.path / name).unlink()


def test_missing_parts_are_named_and_left_out(run: RunFolder) -> None:
    remove(run, "log.jsonl", "images/pairs/pairs.jsonl", "recipe.yaml", "environment.json", "manifest.json")
    remove(run, "images/base/00000_0.png")
    write_rows(run.scores, evaluation_rows())
    none = dict.fromkeys(("confident", "saturation", "distance", "diversity"))
    scales = {"base": 3.0, "aligned": 2.0}
    write_json(run.evaluation, {"metric": "geneval", "scales": scales, "fidelity": {"base": none, "aligned": none}})
    result = report(run, "small")
    text = page(run).text
    assert text.count(" in this run") == 6
    assert "no image" in text
    assert not page(run).all("svg")
    assert result["stages"] == result["versions"] == {}
    assert result["metrics"]["geneval"]["curve"] == {"base": {}, "aligned": {}}


@pytest.mark.parametrize(("names", "panels"), [(("cosine",), 5), (("u_std", "gap"), 4), (("step",), 0)])
def test_a_log_without_a_column_loses_that_panel(run: RunFolder, names: Sequence[str], panels: int) -> None:
    whole: dict[str, Any] = {"step": 1, "grad_norm": 1.0} | dict.fromkeys(COLUMNS, 0.5)
    write_rows(run.log, [whole, {key: value for key, value in whole.items() if key not in names}])
    report(run, "small")
    assert len(page(run).all("svg")) == 1 + panels


def test_a_long_log_with_gaps_is_drawn(run: RunFolder) -> None:
    """Means of blocks keep the page light; a NaN leaves a gap in its curve, no warning."""
    row = {"step": 1, "grad_norm": float("nan")} | dict.fromkeys(COLUMNS, 0.0)
    write_rows(run.log, [row | {"step": step} for step in range(1, 3001)])
    report(run, "small")
    assert len(page(run).all("svg")) == 7
    assert run.report_html.stat().st_size < 300_000


def test_an_image_of_one_model_alone_does_not_count(run: RunFolder) -> None:
    """Without aligned's second image of the last prompt, counting is 0 / 1 for base and 1 / 1 for aligned."""
    write_rows(run.scores, [row for row in evaluation_rows() if (row["model"], row["seed"]) != ("aligned", 201)])
    metric = report(run, "small")["metrics"]["geneval"]
    assert metric["by_tag"]["counting"] == {"base": 0.0, "aligned": 1.0}
    assert metric["prompts"] == 3


def test_without_an_evaluation_it_says_what_to_do(run: RunFolder) -> None:
    write_rows(run.scores, validation_rows())
    with pytest.raises(InputError, match="no image was judged"):
        report(run, "small")
    run.scores.unlink()
    with pytest.raises(InputError, match="ddspo evaluate"):
        report(run, "small")


def test_a_run_that_is_not_evaluated_shows_what_was_trained(run: RunFolder) -> None:
    """No score, no image of either model, and no number that only an evaluation could give."""
    result = report(run, f"small {HOSTILE}", evaluated=False)
    assert result["metrics"] == result["fidelity"] == {}
    assert result["stages"] == {"train": 12.5}
    made = page(run)
    assert "Not evaluated" in made.text
    assert "By tag" not in made.text
    assert len(made.all("svg")) == 6
    assert [attributes["alt"] for attributes in made.all("img")] == [f"win: {HOSTILE}", f"lose: lost {HOSTILE}"]
    assert HOSTILE not in run.report_html.read_text(encoding="utf-8")


def test_what_was_drawn_in_the_end_leads_a_page_without_a_score(run: RunFolder) -> None:
    """And follows the score on one with it; every two pictures have a box that enlarges them, without any script."""
    rows = [
        {"item": 0, "prompt": HOSTILE, "seed": 1}
        | {model: f"samples/{model}/00000.png" for model in ("base", "aligned")}
    ]
    write_rows(run.samples / "samples.jsonl", rows)
    paint(run.path / rows[0]["base"], size=700)
    (run.path / rows[0]["aligned"]).parent.mkdir(parents=True)
    (run.path / rows[0]["aligned"]).write_bytes(b"no picture")
    report(run, "small", evaluated=False)
    made = page(run)
    assert made.text.index("1 of 1 prompt, base (left)") < made.text.index("5 updates")
    first = made.all("img")[0]
    assert first["alt"] == f"base: {HOSTILE}"
    assert Image.open(io.BytesIO(base64.b64decode((first["src"] or "").split(",")[1]))).size == (640, 640)
    assert "no image" in made.text
    boxes = made.all("input")
    assert [box["aria-label"] for box in boxes] == [f"Enlarge: {HOSTILE}"] * 2
    assert not made.all("script")
    report(run, "small")
    text = page(run).text
    assert text.index("By tag") < text.index("At the end of training") < text.index("Pairs it learned from")


@pytest.mark.parametrize("count", [1, 2, 3, 60])
def test_ticks_are_whole_updates(count: int) -> None:
    """A short run has no update 1.5."""
    names = dict.fromkeys(COLUMNS, 0.5) | {"grad_norm": 1.0}
    for panel in figures.training([names | {"step": step} for step in range(1, count + 1)]):
        ticks = re.findall(r'id="xtick_\d+".*?<text[^>]*>([^<]*)</text>', panel.svg, re.DOTALL)
        assert ticks
        assert all(tick.lstrip("−").isdecimal() for tick in ticks)


def test_ticks_are_scales_that_were_tried() -> None:
    """Of two that are too near for both their numbers the first has one: 1.1 is 0.1 after 1, of 6.5 in all."""
    svg = figures.guidance({"base": {"1": 0.1, "1.1": 0.2, "2": 0.3, "7.5": 0.2}}, {"base": 2.0})
    ticks = re.findall(r'id="xtick_\d+".*?(?=id="xtick|id="matplotlib.axis_2)', svg, re.DOTALL)
    numbers = [re.findall(r"<text[^>]*>([^<]*)</text>", tick)[:1] for tick in ticks]
    assert numbers == [["1"], [], ["2"], ["7.5"]]


def test_labelled_pairs_show_their_verdicts(run: RunFolder) -> None:
    """And winner and loser their own curves, before the policy's."""
    verdict = {
        "win_seed": 1,
        "lose_seed": 2,
        "win_score": 1.0,
        "lose_score": 0.25,
        "win_note": "",
        "lose_note": HOSTILE,
    }
    write_rows(run.images / "pairs" / "pairs.jsonl", [{"n": 0, "id": "p0", "prompt": "a circle"} | verdict])
    names = ("loss", "winner_loss", "loser_loss", "winner_grad_norm", "loser_grad_norm")
    write_rows(run.pretraining.log, [{"step": step} | dict.fromkeys(names, 0.5) for step in (1, 2, 3)])
    report(run, "small")
    text = " ".join(page(run).text.split())
    assert "a circle win 1" in text
    assert f"lose 0.25{' '.join(HOSTILE.split())}" in text
    assert "from different seeds" in text
    assert "degraded prompt" not in text[text.index("Pairs it learned from") :]
    assert "3 updates before the policy's" in text
    assert "denoising loss" in text
    assert HOSTILE not in run.report_html.read_text(encoding="utf-8")
