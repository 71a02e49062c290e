"""The whole way through the command line, on tiny folders of pipelines that the embedded world does not have."""

import json
from pathlib import Path

import pytest
import yaml
from commands import run as run_command

from ddspo.backbones.base import Backbone
from ddspo.backbones.sd3 import SD3
from ddspo.backbones.sdxl import SDXL
from ddspo.rows import read_rows

DATA = "package://ddspo.scenes/data"


def recipe(folder: Path, model: dict[str, object]) -> Path:
    for name in ("validation", "evaluation"):
        row = {"prompt": f"a circle, {name}", "tag": "single_object", "include": [{"class": "circle", "count": 1}]}
        (folder / f"{name}.jsonl").write_text(json.dumps(row))
    (folder / "prompts.txt").write_text("a red circle\na blue square\n" + "a red " + "long " * 40 + "end\n")
    tree = {
        "name": "tiny",
        "out": str(folder),
        "model": model,
        "prompts": str(folder / "prompts.txt"),
        "sample": {"pairs": 4, "steps": 2, "guidance": 2.0, "batch": 2},
        "train": {"steps": 2, "batch": 4, "device_batch": 2},
        "validation": {"final": 1, "steps": 1},
        "evaluate": {
            "metrics": [{"geneval": {"detector": "scenes"}}],
            "prompts": str(folder / "evaluation.jsonl"),
            "validation": str(folder / "validation.jsonl"),
            "scales": [2.0],
            "steps": 2,
            "images": 2,
            "validation_images": 1,
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize("cls", [SDXL, SD3])
def test_run(cls: type[Backbone], tmp_path: Path) -> None:
    cls.tiny().save(tmp_path / "model")
    length = {"max_length": 24} if cls.long_text else {}
    path = recipe(tmp_path, {"path": str(tmp_path / "model"), "resolution": 32} | length)
    said = "".join(run_command(["run", str(path)]))
    run = tmp_path / "tiny"
    rows = read_rows(run / "log.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert 0.6 < rows[0]["loss"] < 0.8
    assert len(read_rows(run / "images/pairs/pairs.jsonl")) == 4
    assert "1 of 3 lose their end, for example 'a red long" in said
    assert "long end'" in said
    assert (run / "aligned/pytorch_lora_weights.safetensors").is_file()
    assert f"backbone: {cls.__name__.lower()}" in (run / "recipe.yaml").read_text()
    assert (run / "report.html").stat().st_size > 1000
