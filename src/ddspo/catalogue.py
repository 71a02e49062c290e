"""Which components there are, read from their files' names and first lines: nothing is imported to list them."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent


def kinds() -> list[str]:
    """The folders of components: those with a base.py, which says what its kind is."""
    return sorted(path.parent.name for path in PACKAGE.glob("*/base.py"))


def names(kind: str) -> list[str]:
    """The components of a kind: the files beside its base.py."""
    found = [path.stem for path in (PACKAGE / kind).glob("*.py")]
    return sorted(name for name in found if name != "base" and name[0] != "_")


def first_line(kind: str, name: str) -> str:
    """First line of the docstring of a component's file."""
    text = (PACKAGE / kind / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
