"""Arrows never run back: who may import whom, read from the imports themselves; and files stay short."""

import ast
from pathlib import Path

import pytest

import ddspo

ROOT = Path(ddspo.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
BASE = {
    "errors",
    "imports",
    "endings",
    "agreement",
    "randomness",
    "rows",
    "files",
    "run_folder",
    "saved",
    "manifest",
    "lock",
    "progress",
    "places",
    "conditions",
    "digests",
    "images",
    "parquet",
    "references",
    "catalogue",
    "downloads",
    "hub",
    "weights",
    "tagger",
    "trees",
    "database",
    "pixels",
}
ORDER = [
    {"maths"},
    {"pairs", "objectives", "policy_pairs", "reference_policies", "timesteps", "schedules", "preferences", "prompts"},
    {"backbones"},
    {"adaptations", "detectors", "exports", "scenes", "metrics"},
    {"judging", "layouts"},
    {"training", "sampling", "degradations"},
    {"pages"},
    {"stages", "model_card"},
    {"components"},
    {"origins"},
    {"recipe", "galleries", "conversion"},
    {"contestants", "verdicts"},
    {"checks"},
    {"result", "settings", "growth"},
    {"standing", "jobs"},
    {"workflow", "cost", "taking"},
    {"afterwards", "align"},
    {"cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names} | dict.fromkeys(BASE, -1)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom) and node.module in ("ddspo", "ddspo.stages"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.removeprefix("ddspo.") for name in names if name.startswith("ddspo.")}
    return found


def place(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")


@pytest.mark.parametrize("path", FILES, ids=place)
def test_imports_point_downwards(path: Path) -> None:
    own = place(path).split(".")[0]
    for name in imports(path) if own != "__init__" else ():
        other = name.split(".")[0]
        assert LEVEL[other] <= LEVEL[own], f"{place(path)} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_parts_that_must_not_meet(path: Path) -> None:
    here, others = place(path), imports(path)
    if here.startswith("maths."):
        assert all(name.startswith("maths.") for name in others)
    if here.startswith("stages."):  # which share nothing but the helpers whose names begin with an underscore
        assert not [name for name in others if name.startswith("stages") and not name.startswith("stages._")]
    if here != "detectors.scenes" and not here.startswith("scenes."):
        assert not [name for name in others if name.startswith("scenes")]


@pytest.mark.parametrize("path", FILES, ids=place)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= (330 if place(path) == "scenes.build" else 300)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 46, f"{place(path)}: {node.name}"
