"""What files hold is what a stage depends on: other rows under the same names are another run."""

from pathlib import Path

import pytest
import yaml

from ddspo.errors import InputError
from ddspo.files import write_rows
from ddspo.recipe import load
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
            **{"metric": {"geneval": {"detector": "scenes"}}, "prompts": files["evaluation"]},
            **{"validation": files["validation"], "scales": [1], "steps": 1, "images": 1},
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    Workflow.start(load(path)).run(("degrade", "sample", "train", "evaluate"))
    return path


@pytest.mark.parametrize(
    ("name", "stage", "key"),
    [
        ("prompts", "degrade", "prompts"),
        ("evaluation", "evaluate", "rows of evaluate.prompts or evaluate.validation"),
        ("validation", "evaluate", "rows of evaluate.prompts or evaluate.validation"),
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
