"""What the scores on the way are scores of: the base beside the policy, and the weights that would be saved."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from judges import Plain
from PIL import Image
from safetensors.torch import load_file
from test_loop import METHOD, SETTINGS, data

from ddspo import randomness
from ddspo.adaptations.lora import LoRA
from ddspo.backbones.sd import SD
from ddspo.metrics.base import Score
from ddspo.progress import Progress
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.stages.train import train
from ddspo.training.guards import Guards
from ddspo.training.policies import Policies
from ddspo.training.validation import Validation, Validator

ITEMS = [{"id": f"v{row}", "prompt": f"prompt {row}", "tag": "even" if row % 2 == 0 else "odd"} for row in range(5)]
LOOK = Validation(every=3, pictures=3, scored=5, guidance=2.0, steps=2, batch=2)


class Brightness(Plain):
    """The brighter, the better; keeps the prompts that it was asked about."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def group(self, row: Mapping[str, Any]) -> str:
        return str(row["tag"])

    def judge(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
        self.asked += [row["id"] for row in rows]
        return [Score(float(image.mean())) for image in images]


def images_of(backbone: SD) -> list[np.ndarray]:
    """One prompt after another by plain calls."""
    found = []
    for item in ITEMS:
        seed = randomness.stable_seed(3, item["id"], "validation")
        found += backbone.decode(backbone.generate([item["prompt"]], [seed], 2, 2.0))
    return found


def score(images: Sequence[np.ndarray]) -> float:
    """Tags count alike: three prompts are even, two odd."""
    bright = [image.mean() for image in images]
    return float((np.mean(bright[::2]) + np.mean(bright[1::2])) / 2)


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Brightness]:
    """A run with an average that lies far from its weights, looked at after updates 3 and 6."""
    run, metric, backbone = RunFolder(tmp_path_factory.mktemp("looked")), Brightness(), SD.tiny()
    settings = replace(SETTINGS, lr=0.1, average=0.9, guards=Guards(displacement=math.inf))
    method = replace(
        METHOD,
        adaptation=LoRA(rank=2, alpha=8),
        validator=lambda base: Validator(LOOK, base, ITEMS, metric, 3, run.validation, Accelerator()),
    )
    train(run, backbone, data(backbone), method, settings, 3, Accelerator(), Progress(speaks=False))
    return run, metric


def test_scores_are_the_bases_and_the_averages(looked: tuple[RunFolder, Brightness]) -> None:
    run, metric = looked
    base, saved, raw = SD.tiny(), SD.tiny(), SD.tiny()
    saved.pipeline.load_lora_weights(run.aligned)
    policies = Policies.of(raw, LoRA(rank=2, alpha=8), 0)
    policies.restore(load_file(run.checkpoints / "0000006" / "weights.safetensors"))
    raw.denoiser.eval()
    rows = [row for row in read_rows(run.log) if "score" in row]
    assert [row["step"] for row in rows] == [3, 6]
    expected = score(images_of(base))
    assert [row["base_score"] for row in rows] == pytest.approx([expected] * 2, abs=0.03)
    assert rows[1]["score"] == pytest.approx(score(images_of(saved)), abs=0.03)
    for other in (expected, score(images_of(raw)), rows[0]["score"]):
        assert abs(rows[1]["score"] - other) > 0.1
    assert metric.asked == [item["id"] for item in ITEMS] * 3, "the base is judged once"


def test_the_grid_has_the_base_above_and_the_average_below(looked: tuple[RunFolder, Brightness]) -> None:
    """Prompts 0, 2 and 4, from left to right."""
    run, _ = looked
    saved = SD.tiny()
    saved.pipeline.load_lora_weights(run.aligned)
    expected = np.concatenate([np.concatenate(images_of(each)[::2], axis=1) for each in (SD.tiny(), saved)])
    grid = np.asarray(Image.open(run.validation / "0000006.png")).astype(int)
    assert np.abs(grid - expected).max() <= 2
    assert np.abs(grid[:16] - grid[16:]).max() > 10
