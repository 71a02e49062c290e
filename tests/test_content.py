"""What a stage depends on: what files hold, whatever their names, and every option that changes a result."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from ddspo.errors import InputError
from ddspo.files import write_rows
from ddspo.recipe import Recipe, load
from ddspo.settings import READ
from ddspo.workflow import Workflow


def rows(*prompts: str) -> list[dict[str, object]]:
    seen = {"tag": "counting", "include": [{"class": "circle", "count": len(prompts)}]}
    return [{"id": f"p{number}", "prompt": prompt} | seen for number, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def recipe(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run that was evaluated."""
    folder = tmp_path_factory.mktemp("content")
    files = {name: str(folder / f"{name}.jsonl") for name in ("prompts", "evaluation", "validation")}
    for name, file in files.items():
        write_rows(Path(file), rows(f"a {name}", f"two cats in a {name}"))
    tree = {
        **{"name": "run", "out": str(folder), "model": {"path": str(tiny_folder), "resolution": 32}, "trackers": []},
        **{"prompts": files["prompts"], "sample": {"pairs": 2, "steps": 1, "batch": 2}},
        "train": {"steps": 1, "batch": 2, "device_batch": 2},
        "validation": {"final": 0},
        "evaluate": {
            **{"metrics": [{"geneval": {"detector": "scenes"}}], "prompts": files["evaluation"]},
            **{"validation": files["validation"], "scales": [1], "steps": 1, "images": 1},
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    Workflow.start(load(path)).run(("degrade", "sample", "train", "images"))
    return path


@pytest.mark.parametrize(
    ("name", "stage", "key"),
    [
        ("prompts", "degrade", "prompts"),
        ("evaluation", "images", "rows of evaluate.prompts or evaluate.validation"),
        ("validation", "images", "rows of evaluate.prompts or evaluate.validation"),
    ],
)
def test_other_rows_of_the_same_file_are_refused(name: str, stage: str, key: str, recipe: Path) -> None:
    """As many rows, of as many bytes, with the same ids; and written back they are the same again."""
    file = recipe.parent / f"{name}.jsonl"
    before = file.read_bytes()
    file.write_bytes(before.replace(b"two cats", b"two hats"))
    with pytest.raises(InputError, match=f"stage {stage} was begun with another {key}") as caught:
        Workflow.start(load(recipe))
    assert "\n" not in str(caught.value)
    file.write_bytes(before)
    Workflow.start(load(recipe))


@pytest.mark.parametrize(
    ("override", "stage"),
    [
        ("degradation.remove_words.least=0.5", "degrade"),
        ("sample.guidance=3", "sample"),
        ("model.dtype=bf16", "sample"),
        ("policy_pair=forward_noise", "train"),
        ("reference=ema", "train"),
        ("adaptation.lora.rank=8", "train"),
        ("draw.noise=independent", "train"),
        ("draw.weight=linear", "train"),
        ("train.weight_decay=0.5", "train"),
        ("train.max_grad_norm=0.5", "train"),
        ("train.schedule=cosine", "train"),
        ("evaluate.steps=2", "images"),
        ("evaluate.scales=[1, 2]", "images"),
        ("evaluate.images=3", "images"),
    ],
)
def test_another_value_of_an_option_is_refused(override: str, stage: str, recipe: Path) -> None:
    key = override.partition("=")[0]
    with pytest.raises(InputError, match=rf"stage {stage} was begun with another [\w., ]*{key}"):
        Workflow.start(load(recipe, [override]))


def test_each_group_of_a_recipe_is_read_by_a_stage_or_changes_no_result() -> None:
    free = {"force", "out", "trackers", "validation"}
    read = {key for keys in READ.values() for key in keys}
    assert {field.name for field in fields(Recipe)} - read == free
