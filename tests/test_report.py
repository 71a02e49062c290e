"""The report of a small run made by hand: what it says, which pictures it shows, and that no text gets out."""

import base64
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium
from evaluations import MODELS, TITLES, VALUES, evaluation, paint, score_rows, write_evaluation
from PIL import Image
from test_evaluate import paint as paint_evaluation

from ddspo.errors import InputError
from ddspo.files import write_json, write_rows, write_text
from ddspo.pages import figures, gallery, words
from ddspo.pages.ballot import Ballot
from ddspo.pages.figures import Picture
from ddspo.pages.headline import headline
from ddspo.pages.scores import Frame, frames
from ddspo.pages.scores import score_rows as scores_of
from ddspo.rows import Row
from ddspo.run_folder import RunFolder
from ddspo.stages.report import report

HOSTILE = "</script></pre><img src=x onerror=alert(1)>\" ' onload='alert(2)' {{ 7 * 7 }} <svg/onload=alert(3)>"
PROMPTS = ("a red circle", "a green square", HOSTILE)
COLUMNS = ("loss", "lr", "u_mean", "u_std", "accuracy", "win_displacement", "lose_displacement", "gap", "cosine")


class Page(HTMLParser):
    """Elements opened, in order, with their attributes; closing tags must match."""

    VOID = ("meta", "img", "br", "link", "input", "col")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.pieces: list[str] = []
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
        self.pieces.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Three prompts of two tags, two images each, and every optional part."""
    folder = RunFolder(tmp_path)
    write_evaluation(folder, PROMPTS, f"wrong: {HOSTILE}")
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


def said(run: RunFolder) -> str:
    """The text of the page in one line, with a space between cells."""
    return " ".join(" ".join(page(run).pieces).split())


def change(run: RunFolder, edit: Callable[[Row], object]) -> None:
    """Edit evaluation.json."""
    found = evaluation()
    edit(found)
    write_json(run.evaluation, found)


def only(*models: str) -> Callable[[Row], None]:
    """Leaves some models alone."""

    def edit(found: Row) -> None:
        found["models"] = list(models)
        for each in (*found["metrics"].values(), *found["sets"].values()):
            each["models"] = {model: each["models"][model] for model in models}

    return edit


# The numbers and the words


def test_report_json_is_the_evaluation_with_what_else_is_known(run: RunFolder) -> None:
    change(run, lambda found: found.update(contamination={"prompts": 1, "of": 3, "examples": [HOSTILE]}))
    result = report(run, "small")
    assert json.loads(run.report_json.read_text()) == result
    contamination = {"prompts": 1, "of": 3, "examples": [HOSTILE]}
    rest = {
        "stages": {"train": 12.5},
        "peak_bytes": {},
        "update": None,
        "versions": {"torch": "2.9"},
        "contamination": contamination,
    }
    assert result == {"name": "small"} | evaluation() | rest
    assert (
        f"1 of 3 evaluation prompts is also among the prompts that were trained on, for example “{HOSTILE}”"
        in said(run)
    )


def test_the_page_says_it_in_words(run: RunFolder) -> None:
    report(run, "small")
    text = said(run)
    assert "0.375 → 0.625 +0.250, 95 % interval +0.000 to +0.500" in text
    assert "GenEval, base → aligned, on 3 evaluation prompts with 2 images each, from the same seeds." in text
    assert "The interval contains zero" in text
    assert "▲ other 1.000 +0.625, 95 % interval +0.500 to +0.750" in text
    assert "base 3, aligned 2, other (images from elsewhere)." in text
    assert "validation prompts: base 0.250, aligned 0.500 (+0.250, 95 % interval +0.125 to +0.375)." in text
    assert "Contamination" not in text
    assert " in this run" not in text
    assert "given up" not in text
    change(run, lambda found: found["metrics"]["geneval"].update(given_up=["1", "4"]))
    report(run, "small")
    assert "A scale of 1, 4 was given up after the first image of each prompt, and its points are of these." in said(
        run
    )


def test_the_tables(run: RunFolder) -> None:
    """A line a model: score, floor, difference and share of prompts won; of sets the change in percent."""
    report(run, "small")
    text = said(run)
    assert "● base 0.375 0.125 ■ aligned 0.625 0.125 +0.250 +0.000 to +0.500 75 % 50 to 88 % ▲ other 1.000" in text
    assert "Saturation less is better What Saturation is. ● base 0.500 – ■ aligned" in text
    assert "PickScore What PickScore is. Weights: some/weights (MIT)." in text
    assert "no commercial use What ImageReward is. Weights: a reward (CC BY-NC 4.0: no commercial use)." in text
    assert text.count("no commercial use") == 2
    assert "FID less is better What FID is. ● base 8.000 ■ aligned 10.00 +25.0 % ▲ other 4.000 -50.0 %" in text
    assert "Diversity What Diversity is. ● base 0.000 deviation 0.5 ■ aligned 0.000 – deviation 0.5" in text
    assert "The lines go from 20.500 to 22.000." in text
    assert "counting ● 0.000 ■ 0.500 +0.500 ▲ 1.000 +1.000" in text


@pytest.mark.parametrize(
    ("bounds", "higher", "words", "tone"),
    [
        ([0.1, 0.2], True, "lies above zero: by GenEval, aligned is better than base", "good"),
        ([-0.2, -0.1], True, "lies below zero: by GenEval, aligned is worse than base", "bad"),
        ([-0.2, -0.1], False, "lies below zero: by GenEval, of which less is better, aligned is better", "good"),
        ([0.1, 0.2], False, "lies above zero: by GenEval, of which less is better, aligned is worse", "bad"),
        ([-0.1, 0.2], False, "contains zero: these images do not show that the models differ", ""),
    ],
)
def test_better_and_worse(run: RunFolder, bounds: list[float], higher: bool, words: str, tone: str) -> None:
    def edit(found: Row) -> None:
        found["metrics"]["geneval"]["higher_is_better"] = higher
        found["metrics"]["geneval"]["models"]["aligned"]["interval"] = bounds

    change(run, edit)
    report(run, "small")
    assert f"The interval {words}" in said(run)
    made = page(run)
    assert [each["class"] for each in made.all("p") if (each.get("class") or "").startswith("change")] == [
        f"change {tone}"
    ]


def test_the_first_metric_leads_where_none_chose_the_scales(run: RunFolder) -> None:
    change(run, lambda found: (found.update(choose=None), found["metrics"]["geneval"].update(curve={}, by_scale={})))
    report(run, "small")
    text = said(run)
    assert "GenEval, base → aligned" in text
    assert "Guidance scales: base 3" in text
    assert "against guidance scale" not in text
    change(run, lambda found: found.update(choose="saturation"))
    report(run, "small")
    assert "Saturation (less is better), base → aligned" in said(run)


@pytest.mark.parametrize(("models", "images"), [(("base",), 3), (("base", "other"), 6 * 2), (MODELS, 6 * 3)])
def test_any_number_of_models(run: RunFolder, models: tuple[str, ...], images: int) -> None:
    """One alone has its scores and a sample of three prompts; of two the second is what the headline is about."""
    change(run, only(*models))
    for name in VALUES:
        rows = [row for row in score_rows(name, PROMPTS) if row["model"] in models]
        write_rows(run.scores / f"{name}.jsonl", rows)
    result = report(run, "small")
    text = said(run)
    assert ("0.375 → 1.000" in text) == (models == ("base", "other"))
    assert len(page(run).all("img")) <= images + 2
    assert headline(result)


def test_models_without_a_prompt_in_common(run: RunFolder) -> None:
    """Each has its score, and no difference is said."""

    def edit(found: Row) -> None:
        for each in found["metrics"].values():
            for model in ("aligned", "other"):
                each["models"][model] = {key: each["models"][model][key] for key in ("score", "by_tag", "control")}

    change(run, edit)
    lines = headline(report(run, "small"))
    text = said(run)
    assert "0.375 → 0.625 GenEval, base → aligned" in text
    assert "No prompt is in both." in text
    assert "other 1.000 on no prompt of base" in text
    assert "95 % interval +" not in text.replace("(+0.250, 95 % interval +0.125 to +0.375)", "")
    assert lines[1] == "geneval: base 0.375 -> aligned 0.625, other 1.000, each at its best guidance scale"


def test_what_an_evaluation_leaves_is_reported(tmp_path: Path) -> None:
    """Of models that paint red by their guidance scale: 60 and 90 at the best of each, by hand in test_evaluate."""
    run = RunFolder(tmp_path)
    paint_evaluation(run)
    assert headline(report(run, "painted"))[0] == (
        "red without guidance, validation prompts: base 0.039 -> aligned 0.078 "
        "(+0.039, 95 % interval +0.039 to +0.039)"
    )
    text = said(run)
    assert "0.235 → 0.353 +0.118, 95 % interval +0.118 to +0.118" in text
    assert "base 2, aligned 3." in text
    assert "By red, 9 of 9 pictures of aligned are better than those of base. Shown: 3." in text
    assert "no image" not in text
    assert len(Ballot.open(tmp_path).comparisons) == 9


def test_sets_alone(run: RunFolder) -> None:
    change(run, lambda found: found.update(metrics={}, choose=None))
    result = report(run, "small")
    assert "FID less is better" in said(run)
    assert "Not evaluated" not in said(run)
    assert headline(result)[0] == "fid (less is better): base 8.000 -> aligned 10.00 (+25.0 %), other 4.000 (-50.0 %)"


def test_the_terminal_has_a_line_a_metric(run: RunFolder) -> None:
    lines = headline(report(run, "small"))
    assert lines[:2] == [
        "geneval without guidance, validation prompts: "
        "base 0.250 -> aligned 0.500 (+0.250, 95 % interval +0.125 to +0.375)",
        "geneval: base 0.375 -> aligned 0.625 (+0.250, 95 % interval +0.000 to +0.500), "
        "other 1.000 (+0.625, 95 % interval +0.500 to +0.750), each at its best guidance scale",
    ]
    assert lines[3].startswith("saturation (less is better): base 0.500 -> aligned 0.500 (+0.250, ")
    assert lines[-1] == "diversity: base 0.000 -> aligned 0.000, other 0.000"
    assert len(lines) == 1 + 4 + 2
    assert headline(report(run, "small", evaluated=False)) == []


@pytest.mark.parametrize(
    ("score", "interval", "shown"),
    [
        (0.5, [0.1, 0.3], 3),
        (0.2881, [0.0004, 0.0016], 5),
        (21.5, [0.1, 0.24], 3),
        (123.0, [1.0, 9.0], 2),
        (12345.0, None, 0),
        (0.0, None, 3),
        (0.5, [0.0, 1e-12], 6),
    ],
)
def test_decimals(score: float, interval: list[float] | None, shown: int) -> None:
    """Half of 0.0012 is 0.00060 with two digits; half of 0.14 is 0.070, and half of 0.2 is 0.10."""
    other = {"score": score} | ({"interval": interval} if interval else {})
    assert words.decimals({"models": {"base": {"score": score}, "aligned": other}}) == shown


# The pictures


def chosen(run: RunFolder) -> gallery.Gallery:
    """Of the run as it is, with the paths as pictures."""
    scores = {name: scores_of(run, name) for name in VALUES}
    return gallery.gallery(
        evaluation(), frames(scores), dict.fromkeys(VALUES, False), lambda path: Picture(path, False)
    )


def places(found: Sequence[Frame]) -> list[tuple[int, int]]:
    """Numbers of prompts and images."""
    return [(int(frame.item), frame.index) for frame in found]


def test_what_changed_most(run: RunFolder) -> None:
    """By GenEval aligned gained (0, 0), (2, 0) and lost (1, 1); prompts 0 and 2 changed alike, tags take turns.

    By PickScore it gained 2 in (1, 1) and 0.5 in (0, 0) and lost 1 in (1, 0); of saturation less is better, so that
    (0, 0) gained a quarter and (1, 0) lost one. The other model gained (0, 0) and both pictures of prompt 2, of which
    the first is shown, and there the whole prompt changed.
    """
    found = {
        (TITLES[choice.metric], MODELS[choice.model], choice.way): places(choice.frames)
        for choice in chosen(run).choices
        if choice.metric is not None and choice.model is not None
    }
    assert len(found) == 4 * 2 * 2
    assert {key: places for key, places in found.items() if places} == {
        ("GenEval", "aligned", "better"): [(0, 0), (2, 0)],
        ("GenEval", "aligned", "worse"): [(1, 1)],
        ("GenEval", "other", "better"): [(2, 0), (0, 0)],
        ("PickScore", "aligned", "better"): [(1, 1), (0, 0)],
        ("PickScore", "aligned", "worse"): [(1, 0)],
        ("Saturation", "aligned", "better"): [(0, 0)],
        ("Saturation", "aligned", "worse"): [(1, 0)],
        ("Saturation", "other", "better"): [(2, 1)],
        ("ImageReward", "other", "worse"): [(0, 0)],
    }


def test_a_sample_whatever_came_out(run: RunFolder) -> None:
    sample = chosen(run).choices[-1]
    assert (sample.metric, sample.model, sample.way) == (None, None, "sample")
    assert places(sample.frames) == [(0, 0), (1, 0), (2, 0)]


def test_every_picture_once_with_all_values(run: RunFolder) -> None:
    """Five places are worth a look: (0, 0), (1, 0), (1, 1), (2, 0), (2, 1), each of three models, and a pair."""
    report(run, "small")
    images = [attributes["src"] for attributes in page(run).all("img")]
    assert len(images) == len(set(images)) == 5 * 3 + 2
    text = said(run)
    assert "● base GenEval ✗ wrong: </script>" in text
    assert "PickScore 20.00 Saturation 0.5000 ImageReward -1.000" in text
    assert "By GenEval, 2 of 6 pictures of aligned are better than those of base. Shown: 2." in text
    assert "By ImageReward, 0 of 6 pictures of aligned are worse than those of base." in text


def test_the_page_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five hundred prompts, every picture 40 kB: those are kept that changed most, of each choice alike."""
    values, models = {"up": 1, "down": -1}, list(MODELS)
    rows = {
        name: [
            {
                "model": model,
                "item": f"{item:03d}",
                "index": 0,
                "prompt": "",
                "tag": "",
                "image": f"{item}",
                "note": "",
            }
            | {"value": sign * place * (item if name == "up" else 500 - item)}
            for place, model in enumerate(models)
            for item in range(500)
        ]
        for name, sign in values.items()
    }
    result = {"models": models, "metrics": {name: {"title": name, "higher_is_better": True} for name in values}}
    picture = Picture("x" * 40_000, False)
    for budget in (gallery.BUDGET, 1_000_000):
        monkeypatch.setattr(gallery, "BUDGET", budget)
        found = gallery.gallery(result, frames(rows), dict.fromkeys(values, False), lambda path: picture)
        assert 40_000 * 3 * len(found.cards) <= budget
        better = next(choice for choice in found.choices if choice.frames)
        assert places(better.frames[:2]) == [(499, 0), (498, 0)]
        shown = [len(choice.frames) for choice in found.choices if choice.frames]
        assert max(shown) <= gallery.SHOWN
        assert max(shown) - min(shown) <= 1


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    made = Chromium(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


SEEN = """[...document.querySelectorAll('.browse .card')].filter(card => card.offsetParent)
  .sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top
    || a.getBoundingClientRect().left - b.getBoundingClientRect().left)
  .map(card => card.querySelector('h4 span').textContent)"""


@pytest.mark.parametrize("width", [1280, 390])
def test_the_control_works_without_a_script(run: RunFolder, browser: Chromium, width: int) -> None:
    """From a file, offline; nothing is wider than the window, and the policy forbids nothing that the page has."""
    report(run, "small")
    browser.size(width, 800)
    browser.offline(True)
    browser.open(run.report_html.as_uri())
    says = "[...document.querySelectorAll('.says')].filter(one => one.offsetParent).map(one => one.textContent).join()"
    assert browser.read(SEEN) == [PROMPTS[0], PROMPTS[2]]
    assert browser.read(says) == "By GenEval, 2 of 6 pictures of aligned are better than those of base. Shown: 2."
    steps = (
        ("metric-1", [PROMPTS[1], PROMPTS[0]]),
        ("way-worse", [PROMPTS[1]]),
        ("model-2", []),
        ("metric-3", [PROMPTS[0]]),
        ("way-sample", [*PROMPTS]),
        ("way-better", []),
        ("metric-0", [PROMPTS[2], PROMPTS[0]]),
    )
    for button, seen in steps:
        browser.read(f"document.getElementById('{button}').click()")
        assert browser.read(SEEN) == seen, button
    assert browser.read("document.documentElement.scrollWidth <= innerWidth")
    browser.read("document.querySelector('.browse .choice-2 input').click()")
    assert browser.read("getComputedStyle(document.querySelector('.browse .choice-2 .pair')).position") == "fixed"
    assert browser.read("document.documentElement.scrollWidth <= innerWidth")
    assert browser.said == []


# Anyone's text, and what is missing


def test_hostile_text_is_only_text(run: RunFolder) -> None:
    """Prompts, notes, and the names of models, metrics, tags, licences and figures."""
    text = json.dumps(evaluation()).replace("aligned", "@").replace("GenEval", "@").replace("colors", "@")
    text = text.replace("deviation", "@").replace("some/weights", "@").replace("What FID is", "@")
    write_text(run.evaluation, text.replace("@", json.dumps(HOSTILE)[1:-1]))
    for name in VALUES:
        rows = score_rows(name, PROMPTS, HOSTILE)
        renamed = [row | ({"model": HOSTILE, "tag": HOSTILE} if row["model"] == "aligned" else {}) for row in rows]
        write_rows(run.scores / f"{name}.jsonl", renamed)
    lines = headline(report(run, f"small {HOSTILE}"))
    raw, made = run.report_html.read_text(encoding="utf-8"), page(run)
    assert all(line.isprintable() for line in lines)
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
    sizes = [Image.open(io.BytesIO(base64.b64decode(image.split(",")[1]))).size for image in images]
    assert sizes == [(8, 8)] * 15 + [(80, 80)] * 2
    assert [attributes.get("class") for attributes in made.all("img")] == ["small"] * 15 + [None] * 2


def test_large_images_become_thumbnails(run: RunFolder) -> None:
    paint(run.images / "pairs" / "0-win.png", size=600)
    paint(run.images / "base" / "00000_0.png", size=600)
    report(run, "small")
    for start, side in (("win: ", 256), ("base: a red", 320)):
        image = next(a["src"] or "" for a in page(run).all("img") if (a["alt"] or "").startswith(start))
        assert image.startswith("data:image/jpeg;base64,")
        assert Image.open(io.BytesIO(base64.b64decode(image.split(",")[1]))).size == (side, side)


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
    change(run, lambda found: found["metrics"]["geneval"].update(curve={}, by_scale={}))
    result = report(run, "small")
    text = page(run).text
    assert text.count(" in this run") == 5
    assert text.count("no image") == 1
    assert not page(run).all("svg")
    assert result["stages"] == result["versions"] == {}


def test_a_model_that_lacks_images_is_shown_without_them(run: RunFolder) -> None:
    """Of a folder from elsewhere that has none of the last prompt's."""
    for name in VALUES:
        rows = [row for row in score_rows(name, PROMPTS) if (row["model"], row["item"]) != ("other", "00002")]
        write_rows(run.scores / f"{name}.jsonl", rows)
    report(run, "small")
    assert "By GenEval, 1 of 4 pictures of other is better than that of base." in said(run)
    assert "no image" in said(run)


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


def test_without_an_evaluation_it_says_what_to_do(run: RunFolder) -> None:
    (run.scores / "geneval.jsonl").unlink()
    with pytest.raises(InputError, match=r"geneval.jsonl: no such file: run `ddspo evaluate`"):
        report(run, "small")
    write_json(run.evaluation, {"metric": "geneval", "scales": {}, "fidelity": {}})
    with pytest.raises(InputError, match=r"of another version of ddspo: run `ddspo evaluate --fresh`"):
        report(run, "small")
    run.evaluation.unlink()
    with pytest.raises(InputError, match="not evaluated yet: run `ddspo evaluate`"):
        report(run, "small")


def test_a_run_that_is_not_evaluated_shows_what_was_trained(run: RunFolder) -> None:
    """No score, no image of either model, and no number that only an evaluation could give."""
    result = report(run, f"small {HOSTILE}", evaluated=False)
    assert (result["models"], result["metrics"], result["sets"]) == ([], {}, {})
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
    svg = figures.guidance(["base"], {"base": {"1": 0.1, "1.1": 0.2, "2": 0.3, "7.5": 0.2}}, {"base": 2.0})
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
