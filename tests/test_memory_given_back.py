"""A stage gives its memory back: nothing that was trained is alive where the result is judged."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel

from ddspo.detectors.scenes import SceneDetector
from ddspo.files import write_rows
from ddspo.recipe import load
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.stages.images import Images
from ddspo.workflow import Workflow


def alive() -> tuple[int, int]:
    """Denoisers and optimizers that somebody holds, or that nobody collected."""
    found = [type(each) for each in gc.get_objects()]
    return found.count(UNet2DConditionModel), sum(issubclass(each, torch.optim.Optimizer) for each in found)


@pytest.mark.parametrize("adaptation", [{"lora": {"rank": 2, "alpha": 2}}, "full"], ids=["lora", "full"])
def test_one_denoiser_is_alive_where_images_are_drawn(
    adaptation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of winner, loser, their policy, its reference and the base none, but the one that draws; and none judges."""
    (tmp_path / "prompts.txt").write_text("a red cube\ntwo blue spheres\n")
    rows = [{"id": "v", "prompt": "a cube", "tag": "single_object", "include": [{"class": "circle", "count": 1}]}]
    for name in ("evaluation", "validation"):
        write_rows(tmp_path / f"{name}.jsonl", [row | {"prompt": f"{row['prompt']} {name[0]}"} for row in rows])
    short = {"steps": 1, "batch": 2, "device_batch": 2}
    tree = {
        **{"name": "run", "out": str(tmp_path), "model": {"path": "package://ddspo.scenes/noise"}, "trackers": []},
        **{"prompts": str(tmp_path / "prompts.txt"), "sample": {"pairs": 2, "steps": 1}, "train": short},
        **{"policy_pair": "data_driven", "adaptation": adaptation},
        "pretrain": {"adaptation": adaptation, "train": short},
        "validation": {"every": 1, "pictures": 1, "steps": 1, "final": 1},
        "evaluate": {
            **{"metrics": [{"geneval": {"detector": "scenes"}}], "prompts": str(tmp_path / "evaluation.jsonl")},
            **{"validation": str(tmp_path / "validation.jsonl"), "scales": [1, 2], "steps": 1, "images": 1},
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    gc.collect()
    before, counts, judged = alive(), [], []
    generate, judge = Images._generate, SceneDetector.read

    def now() -> tuple[int, ...]:
        return tuple(now - then for now, then in zip(alive(), before, strict=True))

    def drawing(self: Images, *given: Any) -> Any:
        counts.append(now())
        return generate(self, *given)

    def judging(self: SceneDetector, image: Any) -> Any:
        judged.append(now())
        return judge(self, image)

    monkeypatch.setattr(Images, "_generate", drawing)
    monkeypatch.setattr(SceneDetector, "read", judging)
    Workflow.start(load(tmp_path / "recipe.yaml")).run(("degrade", "sample", "pretrain", "train", "images", "judge"))
    assert counts == [(1, 0)] * 4  # two models, each at two scales and then at the better
    assert set(judged) == {(0, 0)}  # none, wherever images are judged
    assert alive() == before
    rows = read_rows(RunFolder(tmp_path / "run").scores / "geneval.jsonl")
    assert {row["model"] for row in rows} == {"base", "aligned"}
