"""A small evaluation by a metric of few words: rows without tags, references of any size."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from preference_files import save

from ddspo.backbones.sd import SD
from ddspo.metrics.base import Metric, Score
from ddspo.progress import Progress
from ddspo.references import read_references
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.stages import evaluate as stage
from ddspo.stages.evaluate import Evaluate, Evaluation
from ddspo.stages.report import report


class Brightness(Metric):
    """The brighter, the better."""

    def check(self, item: Mapping[str, Any]) -> None:
        """Every prompt will do."""

    def __call__(self, images: Sequence[np.ndarray], items: Sequence[Mapping[str, Any]]) -> list[Score]:
        return [Score(float(image.mean()) / 255, True) for image in images]


def test_a_metric_without_tags_and_references_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows without a tag are one group, whose mean is the score; equal models are equally far from the references.

    These are read and encoded once for both.
    """
    places: list[str] = []
    monkeypatch.setattr(stage, "read_references", lambda place: places.append(place) or read_references(place))
    for number, width in enumerate((20, 40, 90)):
        save(tmp_path / f"references/{number}.png", number, width=width)
    items = [{"id": f"p{number}", "prompt": "a cat"} | ({"tag": None} if number else {}) for number in range(3)]
    run, backbone = RunFolder(tmp_path / "run"), SD.tiny()
    Evaluate(
        folder=run,
        models={"base": lambda: backbone, "aligned": lambda: backbone},
        items={"validation": items[:1], "evaluation": items},
        settings=Evaluation(Brightness(), "", "", str(tmp_path / "references"), (1.0,), 1, 2, 1, 4),
        metric_name="brightness",
        seed=0,
        accelerator=Accelerator(),
        progress=Progress(speaks=False),
    ).run()
    assert places == [str(tmp_path / "references")]
    distances = [found["distance"] for found in json.loads(run.evaluation.read_text())["fidelity"].values()]
    assert distances[0] == distances[1] > 0
    report(run, "bright")
    found = json.loads(run.report_json.read_text())["metrics"]["brightness"]
    values = [row["value"] for row in read_rows(run.scores) if (row["model"], row["split"]) == ("base", "evaluation")]
    assert found["base"] == found["by_tag"]["all"]["base"] == np.mean(values)
