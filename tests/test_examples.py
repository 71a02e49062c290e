"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_an_objective_of_ones_own(tmp_path: Path) -> None:
    """It imports examples/align.py, so that both run."""
    script = ROOT / "examples" / "new_objective.py"
    arguments = [sys.executable, str(script), "package://ddspo.scenes/noise", str(tmp_path / "run")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "aligned" / "pytorch_lora_weights.safetensors").stat().st_size > 1000
