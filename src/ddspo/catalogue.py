"""Which components there are, read from their files' names and first lines: nothing is imported to list them.

Other packages add theirs by an entry point of the group `ddspo.components`, named KIND.NAME, which gives a module
whose last part is NAME: `"metrics.brightness" = "my_package.brightness"`.
"""

import ast
import importlib.util
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

PACKAGE = Path(__file__).parent
GROUP = "ddspo.components"


def kinds() -> list[str]:
    """The folders of components: those with a base.py, which says what its kind is."""
    return sorted(path.parent.name for path in PACKAGE.glob("*/base.py"))


def names(kind: str) -> list[str]:
    """The components of a kind: the files beside its base.py, and those of other packages."""
    return sorted({*_own(kind), *_added(kind)})


def module(kind: str, name: str) -> str:
    """Where a component is; this package's own come first."""
    return f"ddspo.{kind}.{name}" if name in _own(kind) else _added(kind)[name]


def first_line(kind: str, name: str) -> str:
    """First line of the docstring of a component's file."""
    place = module(kind, name)
    spec = None if name in _own(kind) else importlib.util.find_spec(place)
    path = Path(spec.origin) if spec and spec.origin else PACKAGE / kind / f"{name}.py"
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


@cache
def _own(kind: str) -> frozenset[str]:
    found = [path.stem for path in (PACKAGE / kind).glob("*.py")]
    return frozenset(name for name in found if name != "base" and name[0] != "_")


@cache
def _added(kind: str) -> dict[str, str]:
    """{name: module} of other packages; an entry whose module has another name could not be written into a recipe."""
    found = [(*entry.name.partition(".")[::2], entry.value) for entry in entry_points(group=GROUP)]
    return {name: place for of, name, place in found if of == kind and place.rpartition(".")[2] == name}
