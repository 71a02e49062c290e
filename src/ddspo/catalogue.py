"""Which components there are, read from their files' names and first lines: nothing is imported to list them.

Other packages add theirs by an entry point of the group `ddspo.components`, named KIND.NAME, which gives a module
whose last part is NAME: `"metrics.brightness" = "my_package.brightness"`. A name that this package has stays its own.
"""

import ast
import importlib.util
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parent
GROUP = "ddspo.components"


class Added(NamedTuple):
    """A component of another package: its module, and what is wrong with its entry point, or None."""

    module: str
    fault: str | None


def kinds() -> list[str]:
    """The folders of components: those with a base.py, which says what its kind is."""
    return sorted(path.parent.name for path in PACKAGE.glob("*/base.py"))


def names(kind: str) -> list[str]:
    """The components of a kind: the files beside its base.py, and those of other packages."""
    return sorted({*_own(kind), *(name for name, added in _added(kind).items() if not added.fault)})


def is_own(kind: str, name: str) -> bool:
    """Whether a component lies in this package."""
    return name in _own(kind)


def module(kind: str, name: str) -> str:
    """Where a component is."""
    return f"ddspo.{kind}.{name}" if is_own(kind, name) else _added(kind)[name].module


def fault(kind: str, name: str) -> str | None:
    """Why an entry point of a name is no component, or None where there is none or nothing is wrong with it."""
    added = _added(kind).get(name)
    return added.fault if added and not is_own(kind, name) else None


def first_line(kind: str, name: str) -> str:
    """First line of the docstring of a component's file, or that there is none."""
    path = PACKAGE / kind / f"{name}.py" if is_own(kind, name) else _file(module(kind, name))
    if path is None:
        return f"{module(kind, name)}: no such module here"
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def _file(module: str) -> Path | None:
    """Of a module of another package; the packages above it are imported to find it."""
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        spec = None
    return Path(spec.origin) if spec and spec.origin else None


@cache
def _own(kind: str) -> frozenset[str]:
    found = [path.stem for path in (PACKAGE / kind).glob("*.py")]
    return frozenset(name for name in found if name != "base" and name[0] != "_")


@cache
def _added(kind: str) -> dict[str, Added]:
    """What other packages add, by name."""
    found: dict[str, Added] = {}
    for entry in entry_points(group=GROUP):
        of, _, name = entry.name.partition(".")
        if of == kind:
            said = f"entry point {entry.name} = {entry.value} of {entry.dist.name if entry.dist else 'a package'}"
            fault = None
            if entry.value.rpartition(".")[2] != name:  # `name_of` could not write it into a recipe
                fault = f"{said}: its last part must be {name}, the name of the file"
            elif name in found and found[name].module != entry.value:
                fault = f"{said}: {found[name].module} has that name as well: uninstall one of the two"
            found[name] = Added(entry.value, fault)
    return found
