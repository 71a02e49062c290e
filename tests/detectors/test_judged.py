"""Metrics over real networks, tiny: named in a recipe, in any company, and what they say of themselves."""

from pathlib import Path
from typing import Any

import pytest
from tiny_detectors import CPU, mask2former, noise, save_clip, save_grounding_dino, save_owlv2

from ddspo import components
from ddspo.detectors import grounding_dino
from ddspo.detectors import mask2former as module
from ddspo.detectors._colours import ColourReader
from ddspo.metrics.base import Metric, Score

ROWS: list[dict[str, Any]] = [
    {"prompt": "p", "tag": "single_object", "include": [{"class": "cat", "count": 1}]},
    {"prompt": "p", "tag": "color_attr", "include": [{"class": "cat", "count": 1, "color": "red"}]},
    {"prompt": "p", "tag": "counting", "include": [{"class": "dog", "count": 2}], "exclude": []},
]
SPATIAL = [{"prompt": "a cat near a dog"}, {"prompt": "a dog on the left of a cow"}, {"prompt": "a cow near a cat"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    save_clip(folder / "clip")
    mask2former().save_pretrained(folder / "mask2former")
    save_owlv2(folder / "owlv2")
    save_grounding_dino(folder / "grounding_dino")
    return folder


def metric_of(folder: Path, metric: str, detector: str, **options: Any) -> Metric:
    own = {"model": str(folder / detector), "colour_model": str(folder / "clip")}
    return components.construct(Metric, {metric: options | {"detector": {detector: own}}}, "here")


@pytest.mark.parametrize("detector", ["mask2former", "owlv2", "grounding_dino"])
@pytest.mark.parametrize("metric", ["geneval", "compbench_spatial"])
def test_alone_and_together(metric: str, detector: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (module, grounding_dino):
        monkeypatch.setattr(each, "SHORT", 64)
        monkeypatch.setattr(each, "LONG", 106)
    rows = ROWS if metric == "geneval" else SPATIAL
    thresholds = {"threshold": 0.0} | ({"counting_threshold": 0.0} if metric == "geneval" else {})
    judged = metric_of(folder, metric, detector, **thresholds)
    assert [judged.missing(row) for row in rows] == [None] * 3
    images = [noise(48, 48), noise(40, 64, 1), noise(48, 48, 2)]
    with judged.open(CPU) as judge:
        together = judge(images, rows)
        turned = judge(images[::-1], rows[::-1])[::-1]
        alone = [judge([image], [row])[0] for image, row in zip(images, rows, strict=True)]
    for every in zip(together, turned, alone, strict=True):
        assert {len(each.note) for each in every} == {len(every[0].note)}
        assert [each.value for each in every] == pytest.approx([every[0].value] * 3, abs=1e-3)
    assert all(isinstance(each, Score) for each in together)
    assert judged.identity(CPU) != metric_of(folder, metric, detector, **thresholds | {"threshold": 0.5}).identity(CPU)


def test_colours_are_asked_only_where_a_row_names_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHORT", 64)
    asked: list[int] = []
    real = ColourReader.__call__
    monkeypatch.setattr(
        ColourReader, "__call__", lambda self, *given: asked.append(len(given[1])) or real(self, *given)
    )
    with metric_of(folder, "geneval", "mask2former", threshold=0.0).open(CPU) as judge:
        judge([noise(48, 48)], [ROWS[0]])
        assert asked == []
        judge([noise(48, 48)] * 2, ROWS[:2])
    assert asked == [1]


def test_names_that_mask2former_does_not_know_are_refused_before_it_is_loaded() -> None:
    metric = components.construct(Metric, {"geneval": {"detector": "mask2former"}}, "here")
    row = {"tag": "single_object", "include": [{"class": "mouse", "count": 1}]}
    assert "'mouse' is none that the detector knows" in (metric.missing(row) or "")
    row = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "grey"}]}
    assert "'grey' is none that the detector knows" in (metric.missing(row) or "")
    assert [each.name for each in metric.weights][1] == "openai/clip-vit-large-patch14"
