"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]


def test_an_objective_of_ones_own(tmp_path: Path) -> None:
    """It imports examples/align.py, so that both run."""
    script = ROOT / "examples" / "new_objective.py"
    arguments = [sys.executable, str(script), "package://ddspo.scenes/noise", str(tmp_path / "run")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "aligned" / "pytorch_lora_weights.safetensors").stat().st_size > 1000


def test_a_metric_of_ones_own(tmp_path: Path) -> None:
    """White is 1; half white and half black is 1/2 less the half that is black, so 0; a mean of both is 1/2."""
    white, black = np.full((4, 6, 3), 255, np.uint8), np.zeros((4, 6, 3), np.uint8)
    pictures = {"one": [white], "other": [white, np.concatenate([white, black])]}
    for folder, images in pictures.items():
        (tmp_path / folder).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / folder / f"{number}.png")
    script = ROOT / "examples" / "new_metric.py"
    arguments = [sys.executable, str(script), *(str(tmp_path / folder) for folder in pictures)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.rpartition(": ")[2] for line in done.stdout.splitlines()] == ["1.000", "0.500"]
