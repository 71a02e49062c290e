"""`ddspo pairs`: what it says of a run, and the sheet of pictures."""

from pathlib import Path

import pytest
from accelerate import Accelerator
from PIL import Image
from typer.testing import CliRunner

from ddspo.backbones.base import Model
from ddspo.backbones.sd import SD
from ddspo.cli import app
from ddspo.errors import InputError
from ddspo.files import write_rows
from ddspo.progress import Progress
from ddspo.run_folder import RunFolder
from ddspo.sampling.options import Sampling
from ddspo.stages.pairs import inspect
from ddspo.stages.sample import sample


def test_statistics_and_a_sheet(tiny_folder: Path, tmp_path: Path) -> None:
    """Four pairs in two shards, one of which loses its end: two pairs are told of and shown; the exit code is 1."""
    run, model = RunFolder(tmp_path / "run"), Model(str(tiny_folder))
    variants = [{"text": "a", "kind": "remove_words"}]
    write_rows(run.prompts, [{"id": "x", "prompt": "a b", "degraded": variants, "seed": 0}])
    settings = Sampling(pairs=4, steps=1, guidance=1, batch=2)
    sample(run, SD.load(model), model, settings, 5, Accelerator(), Progress(speaks=False))
    whole = CliRunner().invoke(app, ["pairs", str(run.path)])
    assert whole.exit_code == 0
    assert f"4 pairs in 2 shards of {run.pairs}" in whole.stdout
    shard = run.pairs / "000000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    broken = CliRunner().invoke(app, ["pairs", str(run.pairs)])
    lines = broken.stdout.splitlines()
    assert broken.exit_code == 1
    assert lines[0] == f"2 pairs in 1 shards of {run.pairs}"
    assert "degraded by remove_words: 2; share of the prompt's words that is left: 0.5 (0.5 to 0.5)" in lines
    how = f"model {tiny_folder}, dtype fp32, scheduler DDIMScheduler, steps 1, guidance 1.0"
    assert f"  2 x {how}" in lines
    assert f"damaged: {shard}: its checksum is not that of index.json: it is damaged, or another file" in lines
    sheet = Path(lines[-1])
    assert sheet == run.images / "pairs" / "sheet.png"
    with Image.open(sheet) as image:
        assert image.width > 900
        assert len(image.getcolors(image.width * image.height) or ()) > 100


def test_a_folder_without_pairs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pairs: give a run folder"):
        inspect(tmp_path)
