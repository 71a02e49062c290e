"""Prompts that no path names: `compose://SPLIT?count=500` makes them, `benchmark://NAME` fetches them.

In a recipe both may be written as groups: `{compose: {split: evaluation, count: 500}}`, `{benchmark: geneval}`.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any
from urllib.parse import parse_qsl

from pydantic import TypeAdapter, ValidationError

from ddspo.errors import InputError, nearest, quoted, shortened
from ddspo.prompts.benchmarks import Benchmark
from ddspo.prompts.compose import Compose
from ddspo.prompts.files import Rows

COMPOSE, BENCHMARK = "compose://", "benchmark://"
HELD_OUT = (("evaluate", "prompts"), ("evaluate", "validation"), ("validation", "prompts"))
"""Keys of lists that are read whole."""


def is_address(path: str) -> bool:
    """Whether prompts are named so."""
    return path.startswith((COMPOSE, BENCHMARK))


def read_address(path: str, key: str) -> Rows:
    """The rows of an address, each with where it is.

    Args:
        path: The address.
        key: The key of the recipe that it came from, for messages.

    Raises:
        InputError: It names nothing, or cannot be reached.
    """
    found = _found(path, key)
    rows = found.rows() if isinstance(found, Compose) else found.rows(key)
    for number, row in enumerate(rows, start=1):
        yield f"{path}: row {number}", row


def identity(path: str, key: str) -> str:
    """Of what an address gives, in whichever words."""
    return _found(path, key).identity


def address_of(made: Compose) -> str:
    """The address of prompts that are made."""
    options = [(each.name, getattr(made, each.name), each.default) for each in fields(made)][1:]
    asked = "&".join(f"{name}={value}" for name, value, default in options if value != default)
    return f"{COMPOSE}{made.split}{'?' if asked else ''}{asked}"


def address_lists(tree: dict[str, Any]) -> None:
    """Put addresses in place of groups in a recipe; a held-out list takes no option beside its group.

    Raises:
        InputError: As `addressed` does, or there is such an option.
    """
    if "prompts" in tree:
        tree["prompts"] = addressed(tree["prompts"], "prompts")
    for parent, name in HELD_OUT:
        group = tree.get(parent)
        if isinstance(group, dict) and isinstance(group.get(name), dict):
            found = addressed(group[name], f"{parent}.{name}")
            if found.keys() != {"path"}:
                raise InputError(f"{parent}.{name}: give one of path, compose and benchmark, and nothing else")
            group[name] = found["path"]


def addressed(value: Any, key: str) -> Any:
    """A group of a recipe with `path` in place of `compose` or `benchmark`; anything else as it is.

    Raises:
        InputError: Several of the three are there, or the one names nothing; `key` is the group's.
    """
    named = [name for name in ("path", "compose", "benchmark") if isinstance(value, Mapping) and name in value]
    if not named or named == ["path"]:
        return value
    if len(named) > 1:
        raise InputError(f"{key}: both {named[0]} and {named[1]}: leave one of them out")
    (name,), given = named, value[named[0]]
    if name == "benchmark":
        Benchmark.read(str(given), f"{key}.benchmark")
        path = f"{BENCHMARK}{given}"
    elif isinstance(given, Mapping):
        path = address_of(_compose(dict(given), f"{key}.compose"))
    else:
        raise InputError(f"{key}.compose: {quoted(given)}: give its options, such as {{split: alignment, count: 500}}")
    return {"path": path} | {each: value[each] for each in value if each != name}


def _found(path: str, key: str) -> Compose | Benchmark:
    if path.startswith(BENCHMARK):
        return Benchmark.read(path.removeprefix(BENCHMARK), key)
    split, _, query = path.removeprefix(COMPOSE).partition("?")
    return _compose({"split": split} | dict(parse_qsl(query, keep_blank_values=True)), f"{key}: {shortened(path)}")


def _compose(options: Mapping[str, Any], where: str) -> Compose:
    known = [each.name for each in fields(Compose)]
    for name in options:
        if name not in known:
            raise InputError(f"{where}: no option {quoted(name)}{nearest(str(name), known)}")
    try:
        return TypeAdapter(Compose).validate_python(options)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        fault = first["msg"][:1].lower() + first["msg"][1:]
        raise InputError(f"{where}: {place} {quoted(first['input'])}: {fault}") from None
