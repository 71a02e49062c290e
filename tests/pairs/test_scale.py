"""Many pairs in little memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="reads its memory from /proc")
def test_a_million_pairs_fit_into_a_gibibyte(tmp_path: Path) -> None:
    """Every pair comes once in a shuffled visit, and a run that begins anywhere draws the same."""
    script = Path(__file__).with_name("million.py")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["peak_bytes"] < 2**30
    assert 1 < found["window"] < found["shards"] // 4
    assert abs(found["correlation"]) < 0.5
