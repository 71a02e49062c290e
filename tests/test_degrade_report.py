"""What `ddspo degrade --report` counts and measures."""

import io
import json
from pathlib import Path

import commands
import pytest
import torch
import yaml
from rich.console import Console

from ddspo.backbones.sd import SD
from ddspo.degradations.base import overlap
from ddspo.errors import InputError
from ddspo.files import write_rows
from ddspo.progress import Progress
from ddspo.run_folder import RunFolder
from ddspo.stages.degrade_report import TIMES, Measure, degrade_page, degrade_report, target_gap

QUIET = Progress(speaks=False)


def write(run: RunFolder, variants: dict[str, list[tuple[str, str]]]) -> None:
    rows = [
        {
            "id": f"p{place}",
            "prompt": prompt,
            "degraded": [{"text": text, "kind": kind} for text, kind in each],
            "seed": 1,
        }
        for place, (prompt, each) in enumerate(variants.items())
    ]
    write_rows(run.prompts, rows)


def test_the_share_of_kept_words() -> None:
    """Of 'a red cat and a dog' (a twice) 'a cat and a blue dog' keeps a, cat, and, a, dog: 5 of 6."""
    assert overlap("a red cat and a dog", "A cat and a blue dog") == 5 / 6
    assert overlap("a cat", "a dog a dog") == 1 / 2
    assert overlap("cat", "dogs") == 0


def test_the_target_gap() -> None:
    """(1^2 + 3^2) / 2 = 5 and (0 + 2^2) / 2 = 2, a row each; 300^2 is too much for half precision."""
    win, lose = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]]), torch.tensor([[[0.0, 3.0]], [[0.0, 0.0]]])
    assert target_gap(win, lose).tolist() == [5, 2]
    assert target_gap(torch.full((1, 2), 300.0).half(), torch.zeros(1, 2).half()).tolist() == [90_000]


def test_counts(tmp_path: Path) -> None:
    """Three variants of two kinds over two prompts; 'a red cat' keeps 2 of 3 and 1 of 3 words, 'a dog' 1 of 2."""
    run = RunFolder(tmp_path)
    write(run, {"a red cat": [("a cat", "remove"), ("cat", "remove")], "a dog": [("a cow", "swap")]})
    write_rows(run.undegraded, [{"id": "q", "prompt": "[bold]peace"}])
    found = degrade_report(run, None, QUIET)
    assert (found["prompts"], found["undegraded"], found["undegraded_examples"]) == (3, 1, ["[bold]peace"])
    assert list(found["kinds"]) == ["remove", "swap"]
    remove, swap = found["kinds"].values()
    assert (remove["variants"], remove["prompts"], remove["share"]) == (2, 1, 2 / 3)
    assert remove["kept_words"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert (swap["variants"], swap["kept_words"]) == (1, 0.5)
    assert swap["example"] == {"prompt": "a dog", "degraded": "a cow"}
    assert json.loads((run.degradations / "report.json").read_text()) == found
    assert not (run.degradations / "gap.png").exists()
    console = Console(file=io.StringIO(), width=60)
    console.print(degrade_page(found))
    assert "3 prompts, 1 of them cannot be degraded, for example" in console.file.getvalue()
    assert "'[bold]peace'" in console.file.getvalue()


def test_the_gap_is_that_of_the_model(tmp_path: Path) -> None:
    """An empty text in place of the prompt gives the gap of the empty prompt; a text of its own words' case none.

    CLIP's tokenizer reads lower case, so 'A RED CAT' is 'a red cat' to the model: such a degradation is useless.
    """
    run = RunFolder(tmp_path)
    write(run, {"a red cat": [("A RED CAT", "case")], "a blue dog": [("A blue DOG", "case")]})
    measure = Measure(SD.tiny(), 2, 2, 3.0, 1, 7)
    found = degrade_report(run, measure, QUIET)["gap"]
    assert found["kinds"]["case"] == [0] * len(TIMES)
    assert min(found["empty_prompt"]) > 0
    assert found["t"] == [100, 300, 500, 700, 900]
    assert (run.degradations / "gap.png").read_bytes().startswith(b"\x89PNG")
    write(run, {"a red cat": [("", "nothing")], "a blue dog": [("", "nothing")]})
    found = degrade_report(run, measure, QUIET)["gap"]
    assert found["kinds"]["nothing"] == pytest.approx(found["empty_prompt"], rel=1e-5)


def test_labelled_pairs_have_none(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_rows(run.prompts, [{"id": "p", "prompt": "a cat"}])
    with pytest.raises(InputError, match="no degraded prompts: labelled pairs need none"):
        degrade_report(run, None, QUIET)


def test_the_command(tiny_folder: Path, tmp_path: Path) -> None:
    """Skills of three prompts through the command line, with the gaps of a tiny pipeline."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("two red cats\na dog left of a green tree\npeace\n")
    tree = {"name": "r", "out": str(tmp_path), "model": {"path": str(tiny_folder)}, "prompts": str(prompts)}
    tree |= {"degradation": {"skills": {"variants": 2}}, "sample": {"steps": 2, "guidance": 2.0, "batch": 2}}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    said = commands.run(["degrade", str(recipe), "--report", "--gap", "1"])
    run = RunFolder(tmp_path / "r")
    found = json.loads((run.degradations / "report.json").read_text())
    assert (found["prompts"], found["undegraded_examples"]) == (3, ["peace"])
    assert sum(kind["variants"] for kind in found["kinds"].values()) == 4
    assert set(found["gap"]["kinds"]) == set(found["kinds"])
    assert all(value > 0 for values in found["gap"]["kinds"].values() for value in values)
    assert "3 prompts, 1 of them cannot be degraded, for example 'peace'" in said.out
    assert all(kind in said.out for kind in found["kinds"])
    assert str(run.degradations / "report.json") in said.out
