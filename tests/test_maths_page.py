"""Every function and every test that docs/maths.md names is there."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = sorted(set(re.findall(r"`([^`\s]+)`", (ROOT / "docs" / "maths.md").read_text(encoding="utf-8"))))
TESTS = [name for name in NAMED if re.fullmatch(r"\w+/test_\w+\.py(::\w+)?", name)]
ROOMS = "maths|objectives|policy_pairs|training|adaptations"
OBJECTS = [name for name in NAMED if re.fullmatch(rf"({ROOMS})(\.\w+)+", name)]


@pytest.mark.parametrize("name", TESTS)
def test_a_test_is_there(name: str) -> None:
    path, _, function = name.partition("::")
    assert not function or f"def {function}(" in (ROOT / "tests" / path).read_text(encoding="utf-8")
    assert (ROOT / "tests" / path).exists()


@pytest.mark.parametrize("name", OBJECTS)
def test_a_function_is_there(name: str) -> None:
    """package.module, package.module.function, or package.module.Class.method."""
    parts = name.split(".")
    found = importlib.import_module(".".join(["ddspo", *parts[:2]]))
    for part in parts[2:]:
        found = getattr(found, part)


def test_every_objective_is_there() -> None:
    files = {path.stem for path in (ROOT / "src" / "ddspo" / "objectives").glob("[a-z]*.py")} - {"base"}
    assert files <= {name.split(".")[1] for name in OBJECTS if name.startswith("objectives.")}
